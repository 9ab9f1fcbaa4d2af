//! One call from its headers to the end of its response: span, code, time.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Span;

use crate::environment::Stopwatch;
use crate::telemetry;

/// A call under way. Ends once: with a code, or cancelled when it is dropped.
pub(super) struct Call {
    method: &'static str,
    span: Span,
    watch: Stopwatch,
    ended: bool,
}

impl Call {
    /// Starts the clock. `method` is a label of metrics: a path of the table, or a
    /// fixed word. `span` has an empty field `code`.
    pub(super) fn begin(method: &'static str, span: Span) -> Self {
        Self {
            method,
            span,
            watch: Stopwatch::start(),
            ended: false,
        }
    }

    /// Ends the call with `response` if that is all of it, else when its body ends.
    pub(super) fn answer(mut self, response: Response<Body>) -> Response<Body> {
        match code_in(response.headers()) {
            Some(code) => {
                self.end(code);
                response
            }
            None => response.map(|inner| Body::new(Measured { inner, call: self })),
        }
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let (elapsed, code_name) = (self.watch.elapsed(), telemetry::code_name(code));
        telemetry::request(self.method, code, elapsed);
        self.span.record("code", code_name);
        tracing::debug!(parent: &self.span, ?elapsed, "call ended");
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // The client left, or the connection did.
        self.end(Code::Cancelled);
    }
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers
        .get("grpc-status")
        .map(|value| Code::from_bytes(value.as_bytes()))
}

/// A response body that notices how the call ended.
struct Measured {
    inner: Body,
    call: Call,
}

impl HttpBody for Measured {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let polled = {
            // Streams do their work here.
            let _inside = this.call.span.enter();
            Pin::new(&mut this.inner).poll_frame(cx)
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(code) = frame.trailers_ref().and_then(code_in) {
                    this.call.end(code);
                }
            }
            Poll::Ready(Some(Err(status))) => this.call.end(status.code()),
            // Without a status: gRPC clients read that as Unknown.
            Poll::Ready(None) => this.call.end(Code::Unknown),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
