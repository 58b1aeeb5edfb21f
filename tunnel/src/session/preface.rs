//! A transport half that has something to say first.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use underpass_proto::code::ResetCode;
use underpass_proto::frame::Class;

use crate::transport::{HalfError, SendStream};

/// Sends a frame in front of the written bytes.
pub(super) struct Prefaced {
    preface: Bytes,
    inner: Box<dyn SendStream>,
}

impl Prefaced {
    pub(super) fn new(inner: Box<dyn SendStream>, preface: Bytes) -> Self {
        Self { preface, inner }
    }

    fn poll_preface(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HalfError>> {
        while !self.preface.is_empty() {
            ready!(self.inner.poll_write_bytes(cx, &mut self.preface))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl SendStream for Prefaced {
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, HalfError>> {
        ready!(self.poll_preface(cx))?;
        self.inner.poll_write(cx, data)
    }

    fn poll_write_bytes(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<(), HalfError>> {
        ready!(self.poll_preface(cx))?;
        self.inner.poll_write_bytes(cx, data)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HalfError>> {
        ready!(self.poll_preface(cx))?;
        self.inner.poll_flush(cx)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HalfError>> {
        ready!(self.poll_preface(cx))?;
        self.inner.poll_finish(cx)
    }

    fn reset(&mut self, code: ResetCode) {
        self.inner.reset(code);
    }

    fn prioritize(&mut self, class: Class) {
        self.inner.prioritize(class);
    }
}
