//! The memory backend keeps every promise of the trait, bare and decorated.

use std::sync::Arc;

use chancery_hsm::testing::{FailingSigner, conformance};
use chancery_hsm::{BackendKind, MemorySigner, Metered, Signer};

#[tokio::test]
async fn memory_keeps_the_promises_of_a_signer() {
    let signer = MemorySigner::new();
    assert_eq!(signer.kind(), BackendKind::Memory);
    assert!(signer.token_serials().is_empty());
    conformance(&signer).await;
}

#[tokio::test]
async fn decorators_change_nothing() {
    let signer: Arc<dyn Signer> = Arc::new(MemorySigner::new());
    conformance(&Metered::new(FailingSigner::new(signer))).await;
}
