//! The proof that a call was authorized.

use std::sync::Arc;

use chancery_identity::id::SpiffeId;
use tonic::Status;

/// As what a caller was admitted, and by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The method is open to everyone; nothing is known of the caller.
    Anyone,
    /// It came through the admin socket.
    Local,
    /// An administrator named in the configuration.
    AdminByConfig,
    /// An administrator by a registration entry.
    AdminByEntry,
    /// A registration entry allows it to run a downstream server.
    Downstream,
    /// An attested agent in good standing.
    Agent,
}

impl Role {
    /// The word in logs and audit events: SPIRE's `authorized_as`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anyone => "nobody",
            Self::Local => "local",
            Self::AdminByConfig | Self::AdminByEntry => "admin",
            Self::Downstream => "downstream",
            Self::Agent => "agent",
        }
    }

    /// What the decision rests on: SPIRE's `authorized_via`.
    pub fn via(self) -> &'static str {
        match self {
            Self::Anyone => "",
            Self::Local => "transport",
            Self::AdminByConfig => "config",
            Self::AdminByEntry | Self::Downstream => "entries",
            Self::Agent => "datastore",
        }
    }
}

/// Proof that one call was authorized: made by [`super::authorize`] alone, never
/// copied, demanded by what serves the call.
#[derive(Debug)]
pub struct Permit {
    method: &'static str,
    role: Role,
    id: Option<SpiffeId>,
}

impl Permit {
    /// Only for the function that decides.
    pub(super) fn new(method: &'static str, role: Role, id: Option<SpiffeId>) -> Self {
        Self { method, role, id }
    }

    /// The permit of a request that came through [`super::GateService`].
    ///
    /// # Errors
    /// `Internal` where the layer is missing: a mistake of ours, never the caller's.
    pub fn of(extensions: &http::Extensions) -> Result<&Self, Status> {
        extensions
            .get::<Arc<Self>>()
            .map(Arc::as_ref)
            .ok_or_else(|| {
                tracing::error!("a request reached a service without authorization");
                Status::internal("request was not authorized")
            })
    }

    /// Path of the method that may be called.
    pub fn method(&self) -> &'static str {
        self.method
    }

    /// As what the caller was admitted.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether the caller administers: through the admin socket, by configuration
    /// or by an entry.
    pub fn is_administrator(&self) -> bool {
        matches!(
            self.role,
            Role::Local | Role::AdminByConfig | Role::AdminByEntry
        )
    }

    /// ID in the caller's certificate, if it presented one. For a caller admitted
    /// as [`Role::Anyone`] it grants nothing.
    pub fn id(&self) -> Option<&SpiffeId> {
        self.id.as_ref()
    }

    /// The agent, if the caller was admitted as one.
    pub fn agent(&self) -> Option<&SpiffeId> {
        self.id_as(Role::Agent)
    }

    /// The downstream server, if the caller was admitted as one.
    pub fn downstream(&self) -> Option<&SpiffeId> {
        self.id_as(Role::Downstream)
    }

    fn id_as(&self, role: Role) -> Option<&SpiffeId> {
        self.id.as_ref().filter(|_| self.role == role)
    }

    /// A permit that nobody decided on, for tests of services.
    #[cfg(test)]
    pub(crate) fn for_tests(method: &'static str, role: Role, id: Option<SpiffeId>) -> Self {
        Self::new(method, role, id)
    }
}

/// A yes.
#[derive(Debug)]
pub struct Admitted {
    /// What the service demands.
    pub permit: Permit,
    /// The agent used a renewed SVID of this serial, which is now to be made its
    /// current one; in the background, the call does not wait for it.
    pub activate_serial: Option<String>,
}
