//! May a PIN be tried now? Asked before each login that no living login of this process answers.
//!
//! Promises: no PIN reaches a token before a file of this machine says that it is about to, and,
//! where there are others that share the token ([`Council`]), before they have left the try to this
//! process. After a refusal, or a try whose outcome nobody knows, only the operator's order leads
//! to another one, and with the very same PIN only if he says that he means it.

use std::fmt;
use std::sync::Arc;

use super::Pkcs11Config;
use super::pin::Pin;
use super::record::{Places, Record, Tried};
use crate::ckr::Ckr;
use crate::error::{SignerError, TokenName};

/// Who asks for a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoginPolicy {
    /// The program: not after a refusal, not while the token shows lost attempts.
    Guarded,
    /// The operator, once: only a locked PIN stops it.
    Operator {
        /// Also with the PIN that was refused.
        same_pin: bool,
    },
}

/// What came of a login, as others that share the token are told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginEnd {
    /// The token took the PIN.
    Accepted,
    /// It refused it, with these words.
    Refused(String),
    /// No PIN reached it.
    NotTried,
}

/// Why others do not leave a try to this process. `by` says who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimRefused {
    /// The token refused one of them.
    Refused {
        /// Whom.
        by: String,
        /// What it answered.
        said: String,
    },
    /// One of them tries its PIN, or began to and was not heard of since.
    UnderWay {
        /// Which.
        by: String,
    },
    /// They cannot be asked.
    Unasked {
        /// Why not.
        why: String,
    },
    /// They were asked and do not grant it to this process.
    Denied {
        /// Why not.
        why: String,
    },
}

/// Those who share a token, of whom one tries its PIN at a time. Tokens are named by their serial.
/// Called by threads that may block, a few seconds at most.
pub trait Council: fmt::Debug + Send + Sync {
    /// Asks that a try be left to this process. Every claim that is granted is settled, unless the
    /// process dies before.
    ///
    /// # Errors
    /// [`ClaimRefused`].
    fn claim(&self, serial: &str, ordered: bool) -> Result<(), ClaimRefused>;

    /// Tells what came of the try, at once or as soon as others can be told.
    fn settle(&self, serial: &str, end: LoginEnd);

    /// A PIN was refused that was tried without a claim, because nobody could be asked. They are
    /// told as soon as they can be.
    fn refused_unclaimed(&self, serial: &str, said: &str);

    /// An earlier process of this machine tried a PIN: if it has not told what came of it, this is
    /// it.
    fn tried(&self, serial: &str, said: &str);
}

/// Why no login was tried although the token itself showed nothing against it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginBarred {
    /// A PIN of this machine was refused before.
    #[error(
        "token {token} refused the PIN before ({said}); no login tried: correct the PIN file, then run \
         `chancery hsm retry`"
    )]
    Refused {
        /// The token.
        token: TokenName,
        /// What it answered.
        said: String,
    },
    /// A login of this machine was cut off.
    #[error(
        "a login on token {token} was cut off and nobody knows what came of it; no login tried: make sure that the \
         PIN file is right, then run `chancery hsm retry`"
    )]
    CutOff {
        /// The token.
        token: TokenName,
    },
    /// The PIN of somebody who shares the token was refused.
    #[error(
        "token {token} refused the PIN of {by} ({said}); no login tried: correct the PIN there, then run \
         `chancery hsm retry` there"
    )]
    RefusedElsewhere {
        /// The token.
        token: TokenName,
        /// Whose.
        by: String,
        /// What it answered.
        said: String,
    },
    /// Somebody who shares the token tries a PIN.
    #[error(
        "{by} tries its PIN on token {token}; waiting for the outcome. If it does not come back, run \
         `chancery hsm retry` here"
    )]
    UnderWay {
        /// The token.
        token: TokenName,
        /// Who.
        by: String,
    },
    /// Those who share the token cannot be asked.
    #[error(
        "no login tried on token {token} while the others that share it cannot be asked: {why}"
    )]
    Unasked {
        /// The token.
        token: TokenName,
        /// Why not.
        why: String,
    },
    /// Those who share the token do not grant it.
    #[error("no login tried on token {token}: the cluster does not grant it: {why}")]
    Denied {
        /// The token.
        token: TokenName,
        /// Why not.
        why: String,
    },
    /// The operator ordered a try before, and nothing came of it yet.
    #[error("a login that was ordered before is still under way; nothing was tried: wait for it")]
    OrderUnderWay,
    /// The operator ordered a try, and the PIN is the one that was refused.
    #[error(
        "the PIN file still holds the PIN that token {token} refused; nothing was tried: correct it, or say \
         -samePin if the token's PIN has been changed to it"
    )]
    SamePin {
        /// The token.
        token: TokenName,
    },
}

impl LoginBarred {
    /// Whether it passes without anybody's doing.
    pub(crate) fn passes(&self) -> bool {
        matches!(
            self,
            Self::UnderWay { .. } | Self::Unasked { .. } | Self::Denied { .. }
        )
    }

    /// A short, fixed name for metrics.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::UnderWay { .. } => "login_under_way",
            Self::Unasked { .. } => "login_unasked",
            Self::Denied { .. } => "login_denied",
            _ => "pin_refused",
        }
    }
}

/// What a PIN has to pass.
#[derive(Debug, Clone)]
pub(super) struct Gatekeeper {
    places: Places,
    council: Option<Arc<dyn Council>>,
}

/// A PIN that may be tried, once.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    council: Option<&'a dyn Council>,
    claimed: bool,
    serial: &'a str,
    record: Record,
    before: Option<Tried>,
}

impl Gatekeeper {
    pub(super) fn new(config: &Pkcs11Config, council: Option<Arc<dyn Council>>) -> Self {
        Self {
            places: Places::new(&config.pin_file, config.record_dir.as_deref()),
            council,
        }
    }

    /// Leave to try a PIN. `taken_before`: the token took this very PIN from this process, which
    /// then may go on without others that cannot be asked.
    pub(super) fn leave<'a>(
        &'a self,
        token: &'a TokenName,
        pin: &Pin,
        policy: LoginPolicy,
        taken_before: bool,
    ) -> Result<Attempt<'a>, SignerError> {
        let mut record = self.places.lock()?;
        let council = self.council.as_deref();
        let serial = token.serial.as_str();
        let before = match policy {
            LoginPolicy::Guarded => self.untried(&record, token)?,
            LoginPolicy::Operator { same_pin } => {
                // One that is damaged is what the operator may overrule as well.
                let before = record.of(serial).ok().flatten().cloned();
                if let Some(before) = &before
                    && before.said.is_some()
                    && !same_pin
                    && before.is_of(pin.bytes())?
                {
                    let token = token.clone();
                    return Err(LoginBarred::SamePin { token }.into());
                }
                before
            }
        };
        let mut claimed = council.is_some();
        if let Some(council) = council {
            let ordered = policy != LoginPolicy::Guarded;
            match council.claim(serial, ordered) {
                Ok(()) => {}
                Err(ClaimRefused::Unasked { .. }) if taken_before => claimed = false,
                Err(refused) => return Err(barred(token, refused).into()),
            }
        }
        if let Err(error) = record.begin(serial, pin.bytes()) {
            if let Some(council) = council.filter(|_| claimed) {
                council.settle(serial, LoginEnd::NotTried);
            }
            return Err(error);
        }
        Ok(Attempt {
            council,
            claimed,
            serial,
            record,
            before,
        })
    }

    /// Nothing, if no PIN of this machine was tried on the token without being taken.
    fn untried(&self, record: &Record, token: &TokenName) -> Result<Option<Tried>, SignerError> {
        let Some(tried) = record.of(&token.serial)? else {
            return Ok(None);
        };
        let token = token.clone();
        let said = tried.said.clone();
        if let Some(council) = &self.council {
            council.tried(&tried.serial, said.as_deref().unwrap_or("cut off"));
        }
        Err(match said {
            Some(said) => LoginBarred::Refused { token, said }.into(),
            None => LoginBarred::CutOff { token }.into(),
        })
    }
}

fn barred(token: &TokenName, refused: ClaimRefused) -> LoginBarred {
    let token = token.clone();
    match refused {
        ClaimRefused::Refused { by, said } => LoginBarred::RefusedElsewhere { token, by, said },
        ClaimRefused::UnderWay { by } => LoginBarred::UnderWay { token, by },
        ClaimRefused::Unasked { why } => LoginBarred::Unasked { token, why },
        ClaimRefused::Denied { why } => LoginBarred::Denied { token, why },
    }
}

impl Attempt<'_> {
    fn settle(&self, end: LoginEnd) {
        let Some(council) = self.council else {
            return;
        };
        match end {
            end if self.claimed => council.settle(self.serial, end),
            LoginEnd::Refused(said) => council.refused_unclaimed(self.serial, &said),
            LoginEnd::Accepted | LoginEnd::NotTried => {}
        }
    }

    /// The token took it: nothing of it is kept.
    pub(super) fn accepted(mut self) {
        self.note(|record, serial| record.restore(serial, None));
        self.settle(LoginEnd::Accepted);
    }

    /// The token refused it.
    pub(super) fn refused(mut self, ckr: Ckr) {
        self.note(|record, serial| record.refused(serial, &ckr.to_string()));
        self.settle(LoginEnd::Refused(ckr.to_string()));
    }

    /// It never reached the token.
    pub(super) fn not_tried(mut self) {
        let before = self.before.take();
        self.note(|record, serial| record.restore(serial, before));
        self.settle(LoginEnd::NotTried);
    }

    /// What cannot be written leaves the attempt as one that was begun: it counts as a try.
    fn note(&mut self, write: impl FnOnce(&mut Record, &str) -> Result<(), SignerError>) {
        let path = self.record.path().to_owned();
        if let Err(error) = write(&mut self.record, self.serial) {
            tracing::error!(%error, path = %path.display(), "the outcome of a login is not recorded");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::sync::Mutex;

    use super::*;
    use crate::pkcs11::TokenSelector;

    /// Others that cannot be asked, and what they are to hear.
    #[derive(Debug, Default)]
    struct Away {
        settled: Mutex<Vec<LoginEnd>>,
        unclaimed: Mutex<Vec<String>>,
    }

    impl Council for Away {
        fn claim(&self, _: &str, _: bool) -> Result<(), ClaimRefused> {
            Err(ClaimRefused::Unasked {
                why: "no quorum".to_owned(),
            })
        }

        fn settle(&self, _: &str, end: LoginEnd) {
            self.settled.lock().expect("no panic").push(end);
        }

        fn refused_unclaimed(&self, serial: &str, said: &str) {
            let told = format!("{serial}: {said}");
            self.unclaimed.lock().expect("no panic").push(told);
        }

        fn tried(&self, _: &str, _: &str) {}
    }

    #[test]
    fn a_refusal_without_a_claim_is_told_and_no_other_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pin");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .expect("a file");
        std::io::Write::write_all(&mut file, b"4711-0815").expect("writes");
        let config = Pkcs11Config::new("module", TokenSelector::Label("ca".to_owned()), &path);
        let away = Arc::new(Away::default());
        let others: Arc<dyn Council> = away.clone();
        let gatekeeper = Gatekeeper::new(&config, Some(others));
        let pin = Pin::read(&path).expect("reads");
        let token = TokenName {
            label: "ca".to_owned(),
            serial: "7".to_owned(),
        };
        let leave =
            |taken_before| gatekeeper.leave(&token, &pin, LoginPolicy::Guarded, taken_before);
        let barred = leave(false).expect_err("nobody can be asked");
        assert!(
            matches!(barred, SignerError::Login(LoginBarred::Unasked { .. })),
            "{barred}"
        );
        leave(true).expect("it was taken before").accepted();
        leave(true).expect("it was taken before").not_tried();
        assert!(away.unclaimed.lock().expect("no panic").is_empty());
        let refused = Ckr::new(cryptoki::error::RvError::PinIncorrect);
        leave(true).expect("it was taken before").refused(refused);
        assert_eq!(
            *away.unclaimed.lock().expect("no panic"),
            ["7: CKR_PIN_INCORRECT"]
        );
        assert!(away.settled.lock().expect("no panic").is_empty());
        let barred = leave(true).expect_err("it was refused");
        assert!(
            matches!(barred, SignerError::Login(LoginBarred::Refused { .. })),
            "{barred}"
        );
    }
}
