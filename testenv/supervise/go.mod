// Standard library only: it must build in a second, with nothing to download.
module github.com/underpass-dev/underpass/testenv/supervise

go 1.26.0
