package objects

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// Object is one manifest.
type Object struct {
	APIVersion, Kind, Namespace, Name string
	// JSON is canonical: keys sorted, no insignificant space.
	JSON []byte
}

// header is what tells objects apart.
type header struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
}

// parse makes an Object of its JSON.
func parse(data []byte) (Object, error) {
	var h header
	if err := json.Unmarshal(data, &h); err != nil {
		return Object{}, fmt.Errorf("object: %w", err)
	}
	return Object{
		APIVersion: h.APIVersion, Kind: h.Kind, Namespace: h.Metadata.Namespace, Name: h.Metadata.Name, JSON: data,
	}, nil
}

// Write stores a set, one object a line.
func Write(path string, set []Object) error {
	var b bytes.Buffer
	for i := range set {
		b.Write(set[i].JSON)
		b.WriteByte('\n')
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write a set: %w", err)
	}
	return nil
}

// maxLine is more than any object of ours is long.
const maxLine = 1 << 20

// Read loads a set that Write stored.
func Read(path string) (set []Object, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read a set: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		o, err := parse(bytes.Clone(lines.Bytes()))
		if err != nil {
			return nil, fmt.Errorf("read a set: %s: %w", path, err)
		}
		set = append(set, o)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read a set: %s: %w", path, err)
	}
	return set, nil
}
