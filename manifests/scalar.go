package manifests

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Tags of YAML, in the short form in which yaml.Node has them.
const (
	tagNull   = "!!null"
	tagBool   = "!!bool"
	tagInt    = "!!int"
	tagFloat  = "!!float"
	tagBinary = "!!binary"
	tagMerge  = "!!merge"
)

// words that are not strings when they stand without quotes.
var words = map[string]any{
	"": nil, "~": nil, "null": nil, "Null": nil, "NULL": nil,

	"y": true, "Y": true, "yes": true, "Yes": true, "YES": true,
	"true": true, "True": true, "TRUE": true,
	"on": true, "On": true, "ON": true,

	"n": false, "N": false, "no": false, "No": false, "NO": false,
	"false": false, "False": false, "FALSE": false,
	"off": false, "Off": false, "OFF": false,

	".nan": math.NaN(), ".NaN": math.NaN(), ".NAN": math.NaN(),
	".inf": math.Inf(1), ".Inf": math.Inf(1), ".INF": math.Inf(1),
	"+.inf": math.Inf(1), "+.Inf": math.Inf(1), "+.INF": math.Inf(1),
	"-.inf": math.Inf(-1), "-.Inf": math.Inf(-1), "-.INF": math.Inf(-1),
}

var decimalFloat = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)

// scalar returns a node's value as kubectl reads it: nil, bool, int64, uint64 (only
// beyond int64), float64 or string.
func scalar(n *yaml.Node) (any, error) {
	if n.Style&yaml.TaggedStyle == 0 {
		if isQuoted(n) {
			return n.Value, nil
		}
		return plain(n.Value), nil
	}
	switch n.Tag {
	case tagBinary:
		data, err := base64.StdEncoding.DecodeString(n.Value)
		if err != nil || !utf8.Valid(data) {
			return nil, errors.New("a value marked !!binary must be the base64 of valid UTF-8")
		}
		return string(data), nil
	case tagNull, tagBool, tagInt, tagFloat:
		return tagged(n.Tag, n.Value)
	default: // strings, timestamps, and tags of other programs
		return n.Value, nil
	}
}

func isQuoted(n *yaml.Node) bool {
	return n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
}

// tagged returns value as the type that its tag asks for.
func tagged(tag, value string) (any, error) {
	v := plain(value)
	ok := false
	switch v := v.(type) {
	case nil:
		ok = tag == tagNull
	case bool:
		ok = tag == tagBool
	case int64:
		if tag == tagFloat {
			return float64(v), nil
		}
		ok = tag == tagInt
	case uint64:
		ok = tag == tagInt
	case float64:
		ok = tag == tagFloat
	}
	if !ok {
		return nil, fmt.Errorf("%q is marked %s and is none", value, tag)
	}
	return v, nil
}

// plain returns the value of a scalar without quotes and tag.
func plain(s string) any {
	if v, ok := words[s]; ok {
		return v
	}
	if s[0] == '.' {
		if f, err := strconv.ParseFloat(s, 64); err == nil {
			return f
		}
		return s
	}
	if s[0] != '+' && s[0] != '-' && (s[0] < '0' || s[0] > '9') {
		return s
	}
	if isTimestamp(s) {
		return s
	}
	digits := strings.ReplaceAll(s, "_", "")
	if v, ok := integer(digits); ok {
		return v
	}
	if decimalFloat.MatchString(digits) {
		if f, err := strconv.ParseFloat(digits, 64); err == nil {
			return f
		}
	}
	return s
}

// integer reads an integer of any base that Go and YAML 1.1 agree on.
func integer(s string) (any, bool) {
	if i, err := strconv.ParseInt(s, 0, 64); err == nil {
		return i, true
	}
	if u, err := strconv.ParseUint(s, 0, 64); err == nil {
		return u, true
	}
	// "0b-1" and "-0b-1" are read by kubectl, whatever they mean.
	if rest, ok := strings.CutPrefix(s, "0b"); ok {
		i, err := strconv.ParseInt(rest, 2, 64)
		return i, err == nil
	}
	if rest, ok := strings.CutPrefix(s, "-0b"); ok {
		i, err := strconv.ParseInt("-"+rest, 2, 64)
		return i, err == nil
	}
	return nil, false
}

var timestampLayouts = []string{
	"2006-1-2T15:4:5.999999999Z07:00",
	"2006-1-2t15:4:5.999999999Z07:00",
	"2006-1-2 15:4:5.999999999",
	time.DateOnly,
	"2006-1-2",
}

// isTimestamp tells whether s is a date, which stays a string.
func isTimestamp(s string) bool {
	if len(s) < 8 || s[4] != '-' {
		return false
	}
	for _, layout := range timestampLayouts {
		if _, err := time.Parse(layout, s); err == nil {
			return true
		}
	}
	return false
}

// keyString returns a map's key as JSON can have it: a string.
func keyString(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case float64:
		switch {
		case math.IsNaN(v):
			return ".nan", nil
		case math.IsInf(v, 1):
			return ".inf", nil
		case math.IsInf(v, -1):
			return "-.inf", nil
		}
		return strconv.FormatFloat(v, 'g', -1, 32), nil
	default:
		return "", errors.New("a key must be a string: put it in quotes")
	}
}

func toValidUTF8(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
