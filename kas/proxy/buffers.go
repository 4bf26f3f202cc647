package proxy

import "sync"

// buffers are what is read into from clients.
var buffers = sync.Pool{New: func() any { b := make([]byte, maxPart); return &b }}

func getBuffer() *[]byte  { return buffers.Get().(*[]byte) }
func putBuffer(b *[]byte) { buffers.Put(b) }
