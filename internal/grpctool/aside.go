package grpctool

import (
	"fmt"
	"runtime/debug"
)

// Aside has do called by another goroutine, and returns what it returns. A goroutine keeps
// the stack that its deepest call needed for about as long as it lives. One that waits for
// hours, as the handler of a stream does, and there are tens of thousands, has what goes deep
// done aside, in a stack that is given back when it is done. do's panic is the caller's.
func Aside[T any](do func() T) T {
	w := &aside[T]{do: do, done: make(chan struct{})}
	go w.run()
	<-w.done
	if w.panicked != nil {
		panic(w.panicked)
	}
	return w.result
}

// aside is one call of Aside.
type aside[T any] struct {
	do       func() T
	done     chan struct{}
	result   T
	panicked error
}

func (w *aside[T]) run() {
	defer close(w.done)
	defer func() {
		if p := recover(); p != nil { // the stack that says why is this one
			w.panicked = fmt.Errorf("%v\n%s", p, debug.Stack())
		}
	}()
	w.result = w.do()
}
