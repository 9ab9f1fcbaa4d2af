//! The limits as services meet them: by method, caller and deadline.

use std::net::SocketAddr;

use tonic::Code;

use super::*;
use crate::transport::caller_testing as callers;

const ATTEST: &str = "/spire.api.server.agent.v1.Agent/AttestAgent";
const RENEW: &str = "/spire.api.server.agent.v1.Agent/RenewAgent";
const BATCH: &str = "/spire.api.server.svid.v1.SVID/BatchNewX509SVID";
const JWT: &str = "/spire.api.server.svid.v1.SVID/NewJWTSVID";

fn limits(attestation: bool, signing: bool) -> RateLimits {
    RateLimits::new(config::RateLimit {
        attestation,
        signing,
    })
}

fn from(last: u8) -> Caller {
    callers::anonymous_from(SocketAddr::from(([192, 0, 2, last], 1)))
}

fn soon() -> CallDeadline {
    CallDeadline::in_time(Duration::from_millis(20))
}

fn patient() -> CallDeadline {
    CallDeadline::in_time(Duration::from_secs(30))
}

async fn refused(limits: &RateLimits, method: &'static str, count: usize) -> String {
    let status = limits
        .take(method, &from(1), count, soon())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    status.message().to_owned()
}

#[tokio::test]
async fn a_second_attestation_waits_for_its_second_or_is_refused_by_its_deadline() {
    let limits = limits(true, true);
    limits.take(ATTEST, &from(1), 1, patient()).await.unwrap();
    assert_eq!(
        refused(&limits, ATTEST, 1).await,
        "rejecting request due to attest agent rate limiting: \
         rate: Wait(n=1) would exceed context deadline"
    );
    // Another host is not in the way, whichever port it has.
    limits.take(ATTEST, &from(2), 1, soon()).await.unwrap();
    let watch = Stopwatch::start();
    limits.take(ATTEST, &from(1), 1, patient()).await.unwrap();
    let waited = watch.elapsed();
    assert!(waited > Duration::from_millis(800), "{waited:?}");
}

#[tokio::test]
async fn batches_cost_their_items_and_share_a_bucket_with_renewals() {
    let limits = limits(true, true);
    let text = "rejecting request due to certificate signing rate limiting: rate (501) exceeds burst size (500)";
    assert_eq!(refused(&limits, BATCH, 501).await, text);
    limits.take(BATCH, &from(1), 500, soon()).await.unwrap();
    assert_eq!(
        refused(&limits, RENEW, 100).await,
        "rejecting request due to renew agent rate limiting: \
         rate: Wait(n=100) would exceed context deadline"
    );
    // JWT-SVIDs have buckets of their own.
    limits.take(JWT, &from(1), 500, soon()).await.unwrap();
    assert!(
        refused(&limits, JWT, 100)
            .await
            .starts_with("rejecting request due to JWT signing request rate limiting: ")
    );
}

#[tokio::test]
async fn callers_of_the_admin_socket_are_not_limited() {
    let limits = limits(true, true);
    for count in [1, 1, 501] {
        limits
            .take(ATTEST, &callers::local(), count, soon())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn each_switch_is_for_its_methods_alone() {
    let attestation_off = limits(false, true);
    for _ in 0..3 {
        attestation_off
            .take(ATTEST, &from(1), 1, soon())
            .await
            .unwrap();
    }
    refused(&attestation_off, BATCH, 501).await;
    let signing_off = limits(true, false);
    for method in [RENEW, BATCH, JWT] {
        signing_off
            .take(method, &from(1), 501, soon())
            .await
            .unwrap();
    }
    refused(&signing_off, ATTEST, 2).await;
    // These have no switch.
    let status = "/spire.api.server.agent.v1.Agent/PostStatus";
    let off = limits(false, false);
    assert_eq!(
        refused(&off, status, 11).await,
        "rejecting request due to post status rate limiting: rate (11) exceeds burst size (10)"
    );
    let publish = "/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority";
    assert!(
        refused(&off, publish, 501)
            .await
            .starts_with("rejecting request due to key publishing rate limiting: ")
    );
}

#[tokio::test]
async fn a_caller_that_leaves_gives_its_turn_to_the_next() {
    let limits = limits(true, true);
    limits.take(ATTEST, &from(1), 1, patient()).await.unwrap();
    for _ in 0..5 {
        let source = from(1);
        let waiting = limits.take(ATTEST, &source, 1, patient());
        let left = tokio::time::timeout(Duration::from_millis(1), waiting).await;
        assert!(left.is_err(), "it did not wait");
    }
    // Five turns were given back: the next one is within the second.
    let next = CallDeadline::in_time(Duration::from_millis(1_100));
    limits.take(ATTEST, &from(1), 1, next).await.unwrap();
}

#[tokio::test]
async fn a_method_that_has_no_limit_or_no_row_is_a_mistake_of_ours() {
    let limits = limits(true, true);
    for method in ["/spire.api.server.entry.v1.Entry/ListEntries", "/x.Y/Z"] {
        let status = limits.take(method, &from(1), 1, soon()).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (
                Code::Internal,
                format!("rate limiting misconfigured for {method:?}").as_str()
            )
        );
    }
}

#[tokio::test]
async fn a_network_of_ipv6_is_one_source() {
    let limits = limits(true, true);
    let from = |address: &str| callers::anonymous_from(address.parse().unwrap());
    let take = |address: &'static str| {
        let limits = limits.clone();
        async move { limits.take(ATTEST, &from(address), 1, soon()).await }
    };
    take("[2001:db8::1]:1").await.unwrap();
    assert!(take("[2001:db8::2]:1").await.is_err(), "the same host");
    take("[2001:db8:0:1::1]:1").await.unwrap();
}
