// Package crilog writes container logs in the format of the Container Runtime Interface, which Kubernetes's own reader
// (k8s.io/cri-client/pkg/logs) parses: "<RFC 3339 time> <stream> <F|P> <text>".
package crilog

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// maxLine is where a line without an end is written out in parts, as container runtimes do it.
const maxLine = 16 << 10

// timeFormat has a fixed width, so that lines sort as text.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// Log is one log file that both streams of a container write to. A line reaches the file in one write, so a follower
// never sees half of it.
type Log struct {
	mu   sync.Mutex
	file io.WriteCloser
	now  func() time.Time
}

// New returns a log on file, which it closes.
func New(file io.WriteCloser) *Log {
	return &Log{file: file, now: time.Now}
}

// Stream returns a writer for one stream of the log, "stdout" or "stderr".
func (l *Log) Stream(name string) *Stream {
	return &Stream{log: l, name: name}
}

// Close closes the file. Streams must have been flushed.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}

func (l *Log) line(stream, tag string, text []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := make([]byte, 0, len(timeFormat)+len(stream)+len(text)+8)
	line = l.now().UTC().AppendFormat(line, timeFormat)
	line = append(line, ' ')
	line = append(line, stream...)
	line = append(line, ' ')
	line = append(line, tag...)
	line = append(line, ' ')
	line = append(line, text...)
	line = append(line, '\n')
	_, err := l.file.Write(line)
	return err
}

// Stream splits what is written to it into lines. It has one writer.
type Stream struct {
	log     *Log
	name    string
	pending []byte
}

// Write logs every complete line and keeps the rest.
func (s *Stream) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		text, _, ended := bytes.Cut(rest, []byte{'\n'})
		take := min(len(text), maxLine-len(s.pending))
		s.pending = append(s.pending, text[:take]...)
		rest = rest[take:]
		tag := ""
		switch {
		case ended && take == len(text):
			rest = rest[1:]
			tag = "F"
		case len(s.pending) == maxLine:
			tag = "P"
		default:
			continue
		}
		if err := s.emit(tag); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Flush logs what stands after the last line's end.
func (s *Stream) Flush() error {
	if len(s.pending) == 0 {
		return nil
	}
	return s.emit("F")
}

func (s *Stream) emit(tag string) error {
	err := s.log.line(s.name, tag, s.pending)
	s.pending = s.pending[:0]
	return err
}
