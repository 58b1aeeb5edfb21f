package crilog

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

type file struct{ bytes.Buffer }

func (*file) Close() error { return nil }

func record(t *testing.T, writes ...string) string {
	t.Helper()
	f := &file{}
	log := New(f)
	log.now = func() time.Time { return time.Unix(0, 1).In(time.FixedZone("elsewhere", 3600)) }
	stream := log.Stream("stdout")
	for _, w := range writes {
		if n, err := stream.Write([]byte(w)); err != nil || n != len(w) {
			t.Fatalf("Write(%q) = %d, %v", w, n, err)
		}
	}
	if err := stream.Flush(); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(f.String(), "1970-01-01T00:00:00.000000001Z", "T")
}

func TestLines(t *testing.T) {
	for _, c := range []struct {
		name   string
		writes []string
		want   string
	}{
		{"two in one write", []string{"a\nb\n"}, "T stdout F a\nT stdout F b\n"},
		{"one in two writes", []string{"a", "b\n"}, "T stdout F ab\n"},
		{"an empty line", []string{"\n"}, "T stdout F \n"},
		{"no end at all", []string{"a\nb"}, "T stdout F a\nT stdout F b\n"},
		{"nothing", nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := record(t, c.writes...); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestLongLineIsWrittenInParts(t *testing.T) {
	long := strings.Repeat("x", maxLine+3)
	want := "T stdout P " + strings.Repeat("x", maxLine) + "\nT stdout F xxx\n"
	if got := record(t, long[:100], long[100:]+"\n"); got != want {
		t.Errorf("got %d bytes that differ from the %d wanted", len(got), len(want))
	}
}
