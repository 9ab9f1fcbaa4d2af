//! How much of a request is read, and for how long: decided by method and caller
//! before a message is buffered.
//!
//! Why it exists: whoever can open a connection can begin a hundred messages on it and
//! finish none. What is kept of them must be small for callers that proved nothing.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

use crate::transport::Caller;

const ATTEST_AGENT: &str = "/spire.api.server.agent.v1.Agent/AttestAgent";
const GET_BUNDLE: &str = "/spire.api.server.bundle.v1.Bundle/GetBundle";
const SYNC_ENTRIES: &str = "/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries";

/// Largest message of a caller without a certificate, and to methods that take nothing:
/// a mask at most.
const SMALL_BYTES_MAX: usize = 4 << 10;
/// Largest message of an attestation: the largest payload, and as much again for the rest.
const ATTEST_BYTES_MAX: usize = 2 * crate::attest::PAYLOAD_BYTES_MAX;
/// Largest message of others: gRPC's usual limit.
const BYTES_MAX: usize = 4 << 20;
/// Time in which the request of a call without a stream of them must have come.
const RECEIPT_LIMIT: Duration = Duration::from_secs(10);
/// Flag and length before each message (gRPC over HTTP/2, "Length-Prefixed-Message").
const HEADER_BYTES: usize = 5;

/// Bounds of one call's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    message_bytes_max: usize,
    receipt: Option<Duration>,
}

impl Bounds {
    /// Of a call from the network; a caller of the admin socket has gRPC's limit alone.
    pub(super) fn of(method: &str, caller: &Caller) -> Option<Self> {
        let message_bytes_max = match (method, caller) {
            (_, Caller::Local(_)) => return None,
            (ATTEST_AGENT, _) => ATTEST_BYTES_MAX,
            (GET_BUNDLE, _) | (_, Caller::Anonymous(_)) => SMALL_BYTES_MAX,
            (_, Caller::Certificate(_)) => BYTES_MAX,
        };
        // These two are streams of messages; the first has limits of its own for each.
        let streams = matches!(method, ATTEST_AGENT | SYNC_ENTRIES);
        Some(Self {
            message_bytes_max,
            receipt: (!streams).then_some(RECEIPT_LIMIT),
        })
    }

    /// The body within these bounds: what goes beyond them is an error in its place,
    /// `OutOfRange` in tonic's words for its own limit, or `DeadlineExceeded`.
    pub(super) fn hold(self, body: Body) -> Body {
        if body.is_end_stream() {
            return body;
        }
        Body::new(Bounded {
            inner: body,
            message_bytes_max: self.message_bytes_max,
            header: [0; HEADER_BYTES],
            header_length: 0,
            message_left: 0,
            receipt: self.receipt.map(|limit| (limit, Instant::now() + limit)),
            alarm: None,
            ended: false,
        })
    }
}

struct Bounded {
    inner: Body,
    message_bytes_max: usize,
    /// What came of the header of the message that comes next.
    header: [u8; HEADER_BYTES],
    header_length: usize,
    /// What has not come of the message whose header has.
    message_left: usize,
    /// The limit, and when it is reached.
    receipt: Option<(Duration, Instant)>,
    /// Set as soon as something is waited for: most requests come in one piece.
    alarm: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl Bounded {
    /// Follows the messages in `data`, and refuses one when its length has come, before
    /// anybody makes room for it.
    fn follow(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while let [first, rest @ ..] = data {
            if self.message_left > 0 {
                let length = self.message_left.min(data.len());
                self.message_left -= length;
                data = &data[length..];
                continue;
            }
            self.header[self.header_length] = *first;
            self.header_length += 1;
            data = rest;
            if self.header_length == HEADER_BYTES {
                self.header_length = 0;
                let [_, length @ ..] = self.header;
                let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                let limit = self.message_bytes_max;
                if length > limit {
                    return Err(Status::out_of_range(format!(
                        "Error, decoded message length too large: found {length} bytes, the limit is: {limit} bytes"
                    )));
                }
                self.message_left = length;
            }
        }
        Ok(())
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> Option<Duration> {
        let (limit, at) = self.receipt?;
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        alarm.as_mut().poll(cx).is_ready().then_some(limit)
    }
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        let refusal = match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                frame.data_ref().and_then(|data| this.follow(data).err())
            }
            Poll::Ready(_) => None,
            Poll::Pending => this.is_late(cx).map(|limit| {
                Status::deadline_exceeded(format!("the request did not come within {limit:?}"))
            }),
        };
        match refusal {
            Some(status) => {
                this.ended = true;
                Poll::Ready(Some(Err(status)))
            }
            None => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};
    use tonic::Code;

    use super::*;
    use crate::authz::table;
    use crate::transport::caller_testing as callers;

    fn certificate() -> Caller {
        callers::certificate("spiffe://here.test/spire/agent/a", "1", i64::MAX)
    }

    /// A body that comes in these pieces and, if it `hangs`, never ends.
    fn body(pieces: Vec<Vec<u8>>, hangs: bool) -> Body {
        use futures::StreamExt as _;
        let frames = pieces
            .into_iter()
            .map(|piece| Ok::<_, Status>(Frame::data(Bytes::from(piece))));
        let frames = futures::stream::iter(frames);
        if hangs {
            Body::new(StreamBody::new(frames.chain(futures::stream::pending())))
        } else {
            Body::new(StreamBody::new(frames))
        }
    }

    fn message(announced: u32, length: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend(announced.to_be_bytes());
        message.resize(HEADER_BYTES + length, 7);
        message
    }

    fn bounds(message_bytes_max: usize, receipt: Option<Duration>) -> Bounds {
        Bounds {
            message_bytes_max,
            receipt,
        }
    }

    async fn read(bounds: Bounds, body: Body) -> Result<usize, Status> {
        let whole = tokio::time::timeout(Duration::from_secs(20), bounds.hold(body).collect());
        let whole = whole.await.expect("a body that is refused ends");
        whole.map(|whole| whole.to_bytes().len())
    }

    #[test]
    fn who_proved_nothing_may_send_little_and_an_attestation_its_payload() {
        let mut streams = 0;
        let served = chancery_api::METHODS.iter().copied();
        for method in served.filter(|method| table::find(method).is_some()) {
            let anonymous = Bounds::of(method, &callers::anonymous()).unwrap();
            let certificate = Bounds::of(method, &certificate()).unwrap();
            assert_eq!(Bounds::of(method, &callers::local()), None);
            assert_eq!(anonymous.receipt, certificate.receipt);
            streams += usize::from(anonymous.receipt.is_none());
            let largest = (anonymous.message_bytes_max, certificate.message_bytes_max);
            let expected = match method {
                ATTEST_AGENT => (512 << 10, 512 << 10),
                GET_BUNDLE => (4 << 10, 4 << 10),
                _ => (4 << 10, 4 << 20),
            };
            assert_eq!(largest, expected, "{method}");
        }
        assert_eq!(streams, 2, "the paths above are served");
    }

    #[tokio::test]
    async fn a_message_is_refused_when_its_length_is_known() {
        for split in 1..=6 {
            let mut first = message(11, 11);
            let second = first.split_off(split);
            let status = read(bounds(10, None), body(vec![first, second], true))
                .await
                .unwrap_err();
            assert_eq!(
                (status.code(), status.message()),
                (
                    Code::OutOfRange,
                    "Error, decoded message length too large: found 11 bytes, the limit is: 10 bytes"
                )
            );
        }
        // A header alone is enough, and each message counts by itself.
        let announced = body(vec![message(u32::MAX, 0)], true);
        assert!(read(bounds(10, None), announced).await.is_err());
        let second = body(vec![message(10, 10), message(11, 0)], true);
        assert!(read(bounds(10, None), second).await.is_err());
        let mut both = message(10, 10);
        both.extend(message(0, 0));
        both.extend(message(3, 3));
        let pieces = both.chunks(4).map(<[u8]>::to_vec).collect();
        assert_eq!(
            read(bounds(10, None), body(pieces, false)).await.unwrap(),
            15 + 5 + 8
        );
    }

    #[tokio::test]
    async fn a_request_that_does_not_come_ends_by_its_limit() {
        let short = Some(Duration::from_millis(30));
        let begun = body(vec![message(10, 3)], true);
        let status = read(bounds(10, short), begun).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (
                Code::DeadlineExceeded,
                "the request did not come within 30ms"
            )
        );
        let whole = body(vec![message(10, 10)], false);
        assert_eq!(read(bounds(10, short), whole).await.unwrap(), 15);
    }
}
