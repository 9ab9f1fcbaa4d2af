//! The tree of packages. The nesting is the one the generated code assumes when it names the types
//! of another package.
#![allow(
    missing_docs,
    unreachable_pub,
    rustdoc::all,
    clippy::all,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "generated code"
)]

/// Chancery's own: between nodes, for its administration, and for its agent.
pub mod chancery {
    pub mod backup {
        pub mod v1 {
            tonic::include_proto!("chancery.backup.v1");
        }
    }
    pub mod cluster {
        pub mod v1 {
            tonic::include_proto!("chancery.cluster.v1");
        }
    }
    pub mod keys {
        pub mod v1 {
            tonic::include_proto!("chancery.keys.v1");
        }
    }
    pub mod ledger {
        pub mod v1 {
            tonic::include_proto!("chancery.ledger.v1");
        }
    }
    pub mod migrate {
        pub mod v1 {
            tonic::include_proto!("chancery.migrate.v1");
        }
    }
    pub mod peer {
        pub mod v1 {
            tonic::include_proto!("chancery.peer.v1");
        }
    }
    pub mod watch {
        pub mod v1 {
            tonic::include_proto!("chancery.watch.v1");
        }
    }
}

/// Google's: the error model.
pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

/// gRPC's: health.
pub mod grpc {
    pub mod health {
        pub mod v1 {
            tonic::include_proto!("grpc.health.v1");
        }
    }
}

/// SPIFFE's: the broker API.
pub mod spiffe {
    pub mod broker {
        tonic::include_proto!("spiffe.broker");
    }
}

/// SPIRE's: server, agent and shared types.
pub mod spire {
    pub mod agent {
        pub mod debug {
            pub mod v1 {
                tonic::include_proto!("spire.agent.debug.v1");
            }
        }
    }
    pub mod api {
        pub mod agent {
            pub mod delegatedidentity {
                pub mod v1 {
                    tonic::include_proto!("spire.api.agent.delegatedidentity.v1");
                }
            }
            pub mod logger {
                pub mod v1 {
                    tonic::include_proto!("spire.api.agent.logger.v1");
                }
            }
        }
        pub mod server {
            pub mod agent {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.agent.v1");
                }
            }
            pub mod bundle {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.bundle.v1");
                }
            }
            pub mod debug {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.debug.v1");
                }
            }
            pub mod entry {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.entry.v1");
                }
            }
            pub mod localauthority {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.localauthority.v1");
                }
            }
            pub mod logger {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.logger.v1");
                }
            }
            pub mod svid {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.svid.v1");
                }
            }
            pub mod trustdomain {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.trustdomain.v1");
                }
            }
        }
        pub mod types {
            tonic::include_proto!("spire.api.types");
        }
    }
}

/// The SPIFFE Workload API, which has no package.
pub mod workload {
    tonic::include_proto!("_");
}
