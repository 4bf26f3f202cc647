// Package protoconf reads YAML configuration into protobuf messages. Unknown and
// repeated keys, values of the wrong type and values that break a rule of the
// schema (buf.validate) are errors that name the file, the line and the key. Anchors,
// aliases and merge keys are resolved; what they may expand to is bounded. Booleans may be
// written in any word that YAML 1.1 has for them, as GitLab reads them.
package protoconf

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"buf.build/go/protovalidate"
	"buf.build/go/protoyaml"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
)

// Error is one mistake in a configuration file.
type Error struct {
	// Path of the file, as it was given to Unmarshal.
	Path string
	// Line from 1; zero where it is not known.
	Line int
	// Message says what is wrong.
	Message string
}

// Error implements error as "path:line: message".
func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.Path, e.Message)
	}
	return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Message)
}

// validator gives protovalidate the one-argument method that protoyaml calls.
type validator struct{}

func (validator) Validate(m proto.Message) error {
	return protovalidate.Validate(m) //nolint:wrapcheck // protoyaml looks into it
}

// Unmarshal reads data, the contents of the file path, into m. What it returns is
// an *Error, the first mistake in the file; m is then in an undefined state.
func Unmarshal(path string, data []byte, m proto.Message) (err error) {
	// YAML knows more line breaks than protoyaml, which counts lines to quote them.
	data = lineBreaks.ReplaceAll(data, []byte("\n"))
	// protoyaml lets a repeated key pass; the plain YAML decoder does not.
	var anything any
	var doc yaml.Node
	if err := errors.Join(yaml.Unmarshal(data, &doc), yaml.Unmarshal(data, &anything)); err != nil {
		return convert(path, err)
	}
	if said := booleans(data, &doc, m.ProtoReflect().Descriptor()); !bytes.Equal(said, data) {
		data = said
		doc = yaml.Node{}
		if err := yaml.Unmarshal(data, &doc); err != nil {
			return convert(path, err)
		}
	}
	text, lines, err := plain(path, data, &doc)
	if err != nil {
		return convert(path, err)
	}
	// The file is a stranger's: what protoyaml trips over must not end the process.
	defer func() {
		if recover() != nil {
			err = &Error{Path: path, Message: "the file cannot be read: write plain YAML, with a mapping at the top and ordinary line breaks"}
		}
	}()
	if err := (protoyaml.UnmarshalOptions{Path: path, Validator: validator{}}).Unmarshal(text, m); err != nil {
		mistake := convert(path, err)
		if mistake.Line > 0 && mistake.Line < len(lines) {
			mistake.Line = lines[mistake.Line]
		}
		return mistake
	}
	return nil
}

// lineBreaks are those of other systems.
var lineBreaks = regexp.MustCompile(`\r\n?`)

// position matches what protoyaml puts before a message: the path, line and column.
var position = regexp.MustCompile(`^(\d+)(?::\d+)?:? (.*)$`)

// yamlPosition matches what the YAML parser itself says of a syntax error.
var yamlPosition = regexp.MustCompile(`line (\d+): (.*)$`)

func convert(path string, err error) *Error {
	var done *Error
	if errors.As(err, &done) {
		return done
	}
	// protoyaml joins its errors line by line and draws the source under each; the
	// YAML decoder lists its own below a heading.
	text := strings.TrimPrefix(err.Error(), "yaml: unmarshal errors:\n")
	first, _, _ := strings.Cut(text, "\n")
	rest := strings.TrimPrefix(first, path+":")
	if m := position.FindStringSubmatch(rest); m != nil {
		line, _ := strconv.Atoi(m[1])
		return &Error{Path: path, Line: line, Message: m[2]}
	}
	if m := yamlPosition.FindStringSubmatch(first); m != nil {
		line, _ := strconv.Atoi(m[1])
		return &Error{Path: path, Line: line, Message: explain(m[2])}
	}
	return &Error{Path: path, Message: strings.TrimSpace(rest)}
}

// explain adds what to do to the YAML parser's most puzzling words.
func explain(message string) string {
	if strings.Contains(message, "cannot start any token") {
		return message + " (YAML wants spaces, not tabs, for indentation)"
	}
	return message
}
