//! Lists in pages.
//!
//! Records come in insertion order; a page token is the decimal insertion sequence of
//! the last record of a page, so it means the same on every node, after a restart and
//! after a restore. A token is given whenever a page has records, also on the last
//! one: clients ask until it is empty.
//!
//! A page ends at its size or at [`PAGE_BYTES_MAX`], whichever comes first. Nothing is
//! allocated by what a caller asks for, and the registry is held for one chunk at a
//! time, so a list of everything does not stop the log from being applied.

use prost::Message;
use tonic::Status;

/// Largest answer that a stock client takes: gRPC's default.
pub(super) const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Records of a page in bytes, with room for the rest of the message.
pub(super) const PAGE_BYTES_MAX: usize = 7 << 19;
/// Records looked at while the registry is held.
const CHUNK: usize = 512;

/// Which page is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageRequest {
    /// Everything in one answer, or nothing.
    All,
    /// At most `size` records after the sequence `after`.
    Page {
        /// At least 1.
        size: usize,
        /// 0 for the first page.
        after: u64,
    },
}

/// A page of messages.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Page<W> {
    /// What passed the filter.
    pub(super) items: Vec<W>,
    /// Token of the next page; empty when there is none.
    pub(super) next: String,
}

impl PageRequest {
    /// Reads what a list request says; `what` begins the message of a refusal. As in
    /// SPIRE a size that is not positive means no pages, and then the token is ignored.
    ///
    /// # Errors
    /// `InvalidArgument` for a token that no page ends with.
    pub fn new(what: &str, size: i32, token: &str) -> Result<Self, Status> {
        let Some(size) = usize::try_from(size).ok().filter(|size| *size > 0) else {
            return Ok(Self::All);
        };
        if token.is_empty() {
            return Ok(Self::Page { size, after: 0 });
        }
        // `parse` would also take a sign, which no token has.
        let digits = token.bytes().all(|b| b.is_ascii_digit());
        match token.parse() {
            Ok(after) if digits => Ok(Self::Page { size, after }),
            _ => Err(Status::invalid_argument(format!(
                "{what}: could not parse token '{token}'"
            ))),
        }
    }

    /// Collects the page. `next` gives up to so many records after a sequence, in
    /// order; `convert` gives a record's message, or nothing for one that is filtered
    /// out.
    pub(super) async fn collect<R, W: Message>(
        self,
        next: impl Fn(u64, usize) -> Vec<R>,
        sequence: impl Fn(&R) -> u64,
        convert: impl Fn(&R) -> Option<W>,
    ) -> Result<Page<W>, Status> {
        let (size, mut after) = match self {
            Self::All => (usize::MAX, 0),
            Self::Page { size, after } => (size, after),
        };
        let mut page = Page {
            items: Vec::new(),
            next: String::new(),
        };
        let mut bytes = 0;
        loop {
            let records = next(after, CHUNK);
            let Some(last) = records.last() else {
                return Ok(page);
            };
            after = sequence(last);
            for record in &records {
                let Some(message) = convert(record) else {
                    continue;
                };
                bytes += field_bytes(&message);
                match self {
                    Self::All if bytes > ANSWER_BYTES_MAX => return Err(too_large()),
                    // A page has at least one record, or the caller would never get on.
                    Self::Page { .. } if bytes > PAGE_BYTES_MAX && !page.items.is_empty() => {
                        return Ok(page);
                    }
                    _ => {}
                }
                page.items.push(message);
                if self != Self::All {
                    page.next = sequence(record).to_string();
                }
                if page.items.len() == size {
                    return Ok(page);
                }
            }
            // A long list must not keep its thread from other calls.
            tokio::task::yield_now().await;
        }
    }
}

/// Counts records in chunks, as [`PageRequest::collect`] reads them.
pub(super) async fn count<R>(
    next: impl Fn(u64, usize) -> Vec<R>,
    sequence: impl Fn(&R) -> u64,
    matches: impl Fn(&R) -> bool,
) -> i32 {
    let (mut after, mut count) = (0, 0i32);
    loop {
        let records = next(after, CHUNK);
        let Some(last) = records.last() else {
            return count;
        };
        after = sequence(last);
        let found = records.iter().filter(|record| matches(record)).count();
        count = count.saturating_add(i32::try_from(found).unwrap_or(i32::MAX));
        tokio::task::yield_now().await;
    }
}

/// Bytes that a message takes as an item of a repeated field.
pub(super) fn field_bytes<W: Message>(message: &W) -> usize {
    let length = message.encoded_len();
    1 + prost::length_delimiter_len(length) + length
}

/// An answer that a stock client would not take.
pub(super) fn too_large() -> Status {
    Status::resource_exhausted(format!(
        "the answer is larger than {ANSWER_BYTES_MAX} bytes: ask for pages with page_size"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chancery_api::spire::api::types;
    use tonic::Code;

    use super::*;

    /// Records with the given sequences, each with a text of `bytes`.
    async fn collect(
        request: PageRequest,
        sequences: &[u64],
        bytes: usize,
        keep: impl Fn(u64) -> bool,
    ) -> Result<Page<types::Selector>, Status> {
        let next = |after: u64, limit: usize| {
            sequences
                .iter()
                .copied()
                .filter(|s| *s > after)
                .take(limit)
                .collect::<Vec<_>>()
        };
        let convert = |sequence: &u64| {
            keep(*sequence).then(|| types::Selector {
                r#type: sequence.to_string(),
                value: "x".repeat(bytes),
            })
        };
        request.collect(next, |s| *s, convert).await
    }

    fn names(page: &Page<types::Selector>) -> Vec<&str> {
        page.items.iter().map(|s| s.r#type.as_str()).collect()
    }

    #[test]
    fn tokens_are_plain_decimal_numbers() {
        let parse = |token: &str| PageRequest::new("failed to list entries", 5, token);
        assert_eq!(parse("").unwrap(), PageRequest::Page { size: 5, after: 0 });
        assert_eq!(
            parse("42").unwrap(),
            PageRequest::Page { size: 5, after: 42 }
        );
        assert_eq!(
            parse(&u64::MAX.to_string()).unwrap(),
            PageRequest::Page {
                size: 5,
                after: u64::MAX
            }
        );
        for token in ["x", "-1", "+1", " 1", "1.0", "18446744073709551616"] {
            let status = parse(token).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert_eq!(
                status.message(),
                format!("failed to list entries: could not parse token '{token}'")
            );
        }
    }

    #[test]
    fn without_a_size_there_are_no_pages_and_the_token_is_ignored() {
        for size in [0, -1] {
            assert_eq!(
                PageRequest::new("x", size, "nonsense").unwrap(),
                PageRequest::All
            );
        }
    }

    #[tokio::test]
    async fn following_the_tokens_sees_every_record_once() {
        let sequences: Vec<u64> = (1..=1300).map(|n| n * 3).collect();
        let mut token = String::new();
        let mut seen = Vec::new();
        loop {
            let request = PageRequest::new("x", 500, &token).unwrap();
            let page = collect(request, &sequences, 1, |_| true).await.unwrap();
            seen.extend(names(&page).into_iter().map(|n| n.parse::<u64>().unwrap()));
            assert_eq!(page.next.is_empty(), page.items.is_empty());
            if page.next.is_empty() {
                break;
            }
            token = page.next;
        }
        assert_eq!(seen, sequences);
    }

    #[tokio::test]
    async fn pages_look_past_what_is_filtered_out() {
        let sequences: Vec<u64> = (1..=5000).collect();
        let request = PageRequest::Page { size: 2, after: 0 };
        let page = collect(request, &sequences, 1, |s| s % 2000 == 0)
            .await
            .unwrap();
        assert_eq!(names(&page), ["2000", "4000"]);
        assert_eq!(page.next, "4000");
        let rest = collect(
            PageRequest::Page {
                size: 2,
                after: 4000,
            },
            &sequences,
            1,
            |s| s % 2000 == 0,
        );
        assert_eq!(
            rest.await.unwrap(),
            Page {
                items: vec![],
                next: String::new()
            }
        );
    }

    #[tokio::test]
    async fn the_last_full_page_has_a_token_all_the_same() {
        let page = collect(
            PageRequest::Page { size: 3, after: 0 },
            &[1, 2, 3],
            1,
            |_| true,
        )
        .await
        .unwrap();
        assert_eq!(page.next, "3");
    }

    #[tokio::test]
    async fn a_page_ends_before_it_is_too_large_for_a_client() {
        let request = PageRequest::Page {
            size: 100,
            after: 0,
        };
        let page = collect(request, &[1, 2, 3, 4, 5], 1 << 20, |_| true)
            .await
            .unwrap();
        assert_eq!(names(&page), ["1", "2", "3"]);
        assert_eq!(page.next, "3");
        // One that is too large alone still gets through.
        let page = collect(request, &[1, 2], 5 << 20, |_| true).await.unwrap();
        assert_eq!(names(&page), ["1"]);
    }

    #[tokio::test]
    async fn everything_at_once_is_all_or_nothing() {
        let page = collect(PageRequest::All, &[1, 2, 3], 1 << 20, |_| true)
            .await
            .unwrap();
        assert_eq!((page.items.len(), page.next.as_str()), (3, ""));
        let status = collect(PageRequest::All, &[1, 2, 3, 4], 1 << 20, |_| true)
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("page_size"));
    }

    #[tokio::test]
    async fn a_size_from_outside_allocates_nothing() {
        let request = PageRequest::new("x", i32::MAX, "").unwrap();
        let page = collect(request, &[7], 1, |_| true).await.unwrap();
        assert!(page.items.capacity() < 100);
    }

    #[tokio::test]
    async fn counting_goes_through_every_chunk() {
        let next = |after: u64, limit: usize| ((after + 1)..=2000).take(limit).collect::<Vec<_>>();
        assert_eq!(count(next, |s| *s, |s| s % 2 == 0).await, 1000);
    }
}
