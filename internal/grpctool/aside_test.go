package grpctool

import (
	"errors"
	"strings"
	"testing"
)

func TestAside_ReturnsWhatItReturns(t *testing.T) {
	want := errors.New("no")
	if got := Aside(func() error { return want }); !errors.Is(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestAside_APanicIsTheCallers(t *testing.T) {
	defer func() {
		text, ok := recover().(error)
		if !ok || !strings.Contains(text.Error(), "out of luck") || !strings.Contains(text.Error(), "aside_test.go") {
			t.Errorf("got %v", text)
		}
	}()
	_ = Aside(func() error { panic("out of luck") })
	t.Error("it went on")
}
