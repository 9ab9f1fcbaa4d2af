//! Keys in files: for nodes that have no HSM and whose authorities are to survive a restart.
//!
//! Promises: one file a key, which only its owner has a right to; a key is durable before
//! `generate` answers and gone for good when `delete` does; a file that is damaged, of somebody
//! else or of another place is refused by name, and with it the start: nobody is to find out later
//! that an authority is missing. With a passphrase file private keys are sealed, and keys that are
//! not sealed yet become so at the next start.
//!
//! Signing needs no disk: keys are read when the signer is opened. Refuses to know what happens to
//! the directory while it is open.

mod directory;
mod format;
mod problem;
mod seal;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use zeroize::Zeroizing;

use self::directory::Directory;
use self::format::{KeyFile, Private};
pub use self::problem::{KeyDirectoryProblem, KeyFileProblem};
use self::seal::{Passphrase, Sealer};
use crate::error::SignerError;
use crate::lock;
use crate::public_key::PublicKeyInfo;
use crate::signature::Signature;
use crate::signer::{
    BackendKind, Health, KeyId, KeyListing, KeyRef, KeySpec, SignatureAlgorithm, Signer,
};
use crate::software::{KeyTable, SoftwareKey};

/// Where keys are, and what seals them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskConfig {
    /// Directory of the key files; made if only it is missing.
    pub directory: PathBuf,
    /// File with the passphrase that seals them; without one they are not sealed.
    pub passphrase_file: Option<PathBuf>,
}

/// Keys held in files, and in memory while it is open.
pub struct DiskSigner {
    store: Arc<Store>,
}

struct Store {
    keys: KeyTable,
    /// One change at a time.
    directory: Mutex<Directory>,
    sealer: Option<Sealer>,
    /// Why the last change failed, until one succeeds.
    last_error: Mutex<Option<SignerError>>,
}

/// What a key file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFileFacts {
    /// Id and label.
    pub key: KeyRef,
    /// The public key.
    pub public: PublicKeyInfo,
    /// Whether a passphrase is needed for the private key. Where none is, that was found to belong
    /// to the public key.
    pub sealed: bool,
}

/// Judges the content of a key file, without its name and without a passphrase.
///
/// # Errors
/// What is wrong with it.
pub fn inspect(bytes: &[u8]) -> Result<KeyFileFacts, KeyFileProblem> {
    let KeyFile {
        key,
        public,
        private,
    } = KeyFile::parse(bytes)?;
    let sealed = match private {
        Private::Sealed(_) => true,
        Private::Plain(pkcs8) => {
            SoftwareKey::from_pkcs8(key.clone(), public.clone(), pkcs8)
                .ok_or(KeyFileProblem::PrivateKey)?;
            false
        }
    };
    Ok(KeyFileFacts {
        key,
        public,
        sealed,
    })
}

impl DiskSigner {
    /// Takes the directory and reads every key in it.
    ///
    /// # Errors
    /// [`SignerError::KeyDirectory`], [`SignerError::PassphraseFile`], and
    /// [`SignerError::KeyFile`] with the first file that is refused.
    pub async fn open(config: DiskConfig) -> Result<Self, SignerError> {
        // Reading blocks, and so does stretching a passphrase, for a fraction of a second.
        let opened = tokio::task::spawn_blocking(move || Store::open(&config));
        let store = opened.await.map_err(|_| SignerError::Closed)??;
        Ok(Self {
            store: Arc::new(store),
        })
    }

    /// Changes the store where waiting for a disk disturbs nobody. Goes on when the caller is gone.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Store) -> Result<T, SignerError> + Send + 'static,
    ) -> Result<T, SignerError> {
        let store = Arc::clone(&self.store);
        let changed = tokio::task::spawn_blocking(move || change(&store));
        changed.await.map_err(|_| SignerError::Closed)?
    }
}

impl fmt::Debug for DiskSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskSigner")
            .field("keys", &self.store.keys.len())
            .field("sealed", &self.store.sealer.is_some())
            .finish_non_exhaustive()
    }
}

impl Store {
    fn open(config: &DiskConfig) -> Result<Self, SignerError> {
        let passphrase = config.passphrase_file.as_deref().map(Passphrase::read);
        let mut passphrase = passphrase.transpose()?;
        let directory = Directory::open(&config.directory)?;
        let keys = KeyTable::default();
        let mut plain = Vec::new();
        for id in directory.keys()? {
            let file = directory.read(id)?;
            let (key, sealed) = load(&directory, id, &file, passphrase.as_mut())?;
            if !sealed {
                plain.push(key.reference().clone());
            }
            keys.insert(key)?;
        }
        let sealer = passphrase.map(Passphrase::into_sealer).transpose()?;
        if let Some(sealer) = &sealer {
            for key in plain {
                let bytes = encode(&*keys.find(&key)?, Some(sealer))?;
                directory.replace(key.id, &bytes)?;
                tracing::info!(key = %key, "key file sealed");
            }
        }
        Ok(Self {
            keys,
            directory: Mutex::new(directory),
            sealer,
            last_error: Mutex::default(),
        })
    }

    fn generate(&self, spec: &KeySpec) -> Result<PublicKeyInfo, SignerError> {
        let id = spec.key.id;
        self.keys.require_free(id)?;
        // Before the directory is taken: searching for primes is no reason to keep others waiting.
        let made = SoftwareKey::generate(spec)?;
        let bytes = encode(&made, self.sealer.as_ref())?;
        let public = made.public().clone();
        let directory = lock(&self.directory);
        self.keys.require_free(id)?;
        self.noted(directory.write_new(id, &bytes))?;
        self.keys.insert(made)?;
        Ok(public)
    }

    fn delete(&self, key: &KeyRef) -> Result<(), SignerError> {
        let directory = lock(&self.directory);
        self.keys.find_labelled(key)?;
        self.noted(directory.remove(key.id))?;
        self.keys.remove(key.id);
        Ok(())
    }

    fn noted(&self, outcome: Result<(), SignerError>) -> Result<(), SignerError> {
        *lock(&self.last_error) = outcome.as_ref().err().cloned();
        outcome
    }
}

/// The key in the file of `id`, and whether it is sealed.
fn load(
    directory: &Directory,
    id: KeyId,
    file: &[u8],
    passphrase: Option<&mut Passphrase>,
) -> Result<(SoftwareKey, bool), SignerError> {
    let refuse = |problem| SignerError::KeyFile {
        path: directory.path_of(id),
        problem,
    };
    let file = KeyFile::parse(file).map_err(refuse)?;
    if file.key.id != id {
        let found = file.key.id;
        return Err(refuse(KeyFileProblem::OtherKey { found }));
    }
    let (pkcs8, sealed) = match file.private {
        Private::Plain(pkcs8) => (Zeroizing::new(pkcs8.to_vec()), false),
        Private::Sealed(sealed) => {
            let passphrase = passphrase.ok_or_else(|| refuse(KeyFileProblem::Sealed))?;
            (passphrase.open(&sealed)?.map_err(refuse)?, true)
        }
    };
    let key = SoftwareKey::from_pkcs8(file.key, file.public, &pkcs8)
        .ok_or_else(|| refuse(KeyFileProblem::PrivateKey))?;
    Ok((key, sealed))
}

/// The file of a key.
fn encode(key: &SoftwareKey, sealer: Option<&Sealer>) -> Result<Zeroizing<Vec<u8>>, SignerError> {
    let mut private = key.to_pkcs8()?;
    let mut file = format::begin(key.reference(), key.public(), sealer.is_some());
    if let Some(sealer) = sealer {
        private = sealer.seal(&mut file, private)?;
    }
    format::end(&mut file, &private);
    Ok(file)
}

#[async_trait]
impl Signer for DiskSigner {
    fn kind(&self) -> BackendKind {
        BackendKind::Disk
    }

    fn token_serials(&self) -> Vec<String> {
        Vec::new()
    }

    async fn generate(&self, spec: &KeySpec) -> Result<PublicKeyInfo, SignerError> {
        spec.key.check_label()?;
        let spec = spec.clone();
        self.change(move |store| store.generate(&spec)).await
    }

    async fn public_key(&self, key: &KeyRef) -> Result<PublicKeyInfo, SignerError> {
        Ok(self.store.keys.find(key)?.public().clone())
    }

    async fn sign(
        &self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, SignerError> {
        self.store.keys.find(key)?.sign(algorithm, message)
    }

    async fn delete(&self, key: &KeyRef) -> Result<(), SignerError> {
        let key = key.clone();
        self.change(move |store| store.delete(&key)).await
    }

    async fn list(&self, label_prefix: &str) -> Result<Vec<KeyListing>, SignerError> {
        Ok(self.store.keys.list(label_prefix))
    }

    /// Keys that are there sign whatever the disk does, so a failed change is told and no more.
    fn health(&self) -> Health {
        Health {
            usable: true,
            last_error: lock(&self.store.last_error).clone(),
            sessions: 0,
            sessions_free: 0,
            queued: 0,
        }
    }
}
