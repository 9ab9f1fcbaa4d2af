//! Which slots a module has.
//!
//! Promises: a module that contradicts itself is asked a few times, not for ever. The wrapper's own
//! listing asks again for as long as the module says that the list grew, and p11-kit's client says
//! so without end where its server shows no token: a thread that is inside for ever keeps the module
//! from being initialised anew.

// The wrapper has no other way to C_GetSlotList, and does not show its list of functions.
#![allow(unsafe_code)]

use std::path::Path;
use std::sync::Mutex;

use cryptoki::context::Function;
use cryptoki::error::Rv;
use cryptoki::slot::Slot;
use cryptoki_sys as sys;

use super::gate::Inside;
use crate::error::SignerError;
use crate::lock;

/// Slots that a module may have.
const SLOTS_MAX: usize = 4096;
/// How often the list is asked for while it grows.
const TRIES: usize = 3;

type Initialize = unsafe extern "C" fn(sys::CK_VOID_PTR) -> sys::CK_RV;
type GetSlotList =
    unsafe extern "C" fn(sys::CK_BBOOL, sys::CK_SLOT_ID_PTR, sys::CK_ULONG_PTR) -> sys::CK_RV;

/// `C_GetSlotList` of one module.
#[derive(Debug)]
pub(super) struct Slots {
    get: GetSlotList,
    apart: Option<Apart>,
}

/// A module that hands out its functions anew each time, each with a state of its own, such as
/// p11-kit's client with a connection: these are initialised for a listing and finalised after it.
#[derive(Debug)]
struct Apart {
    initialize: Initialize,
    finalize: Initialize,
    alone: Mutex<()>,
}

impl Slots {
    /// Of the module at `path`, which is loaded already and stays so.
    ///
    /// # Errors
    /// [`SignerError::ModuleUnusable`].
    pub(super) fn of(path: &Path) -> Result<Self, SignerError> {
        let unusable = |reason: String| SignerError::ModuleUnusable {
            path: path.to_owned(),
            reason,
        };
        // SAFETY: the library was loaded before, so that none of its initialisers runs now.
        let library = unsafe { sys::Pkcs11::new(path) }.map_err(|e| unusable(e.to_string()))?;
        let list = || {
            let mut list: sys::CK_FUNCTION_LIST_PTR = std::ptr::null_mut();
            // SAFETY: a place for a pointer, as PKCS#11 v3.1 §5.4.4 asks.
            let rv = unsafe { library.C_GetFunctionList(&raw mut list) };
            let got = rv == sys::CKR_OK && !list.is_null();
            got.then_some(list)
                .ok_or_else(|| unusable(format!("C_GetFunctionList answers {rv:#x}")))
        };
        let (first, list) = (list()?, list()?);
        // SAFETY: the module's own, not null, and there for as long as the module is loaded.
        let functions = unsafe { *list };
        // Modules are never unloaded: their threads and destructors would be.
        std::mem::forget(library);
        let missing = |name: &str| unusable(format!("it has no {name}"));
        let (initialize, finalize) = (functions.C_Initialize, functions.C_Finalize);
        let apart = if first == list {
            None
        } else {
            Some(Apart {
                initialize: initialize.ok_or_else(|| missing("C_Initialize"))?,
                finalize: finalize.ok_or_else(|| missing("C_Finalize"))?,
                alone: Mutex::default(),
            })
        };
        let get = functions.C_GetSlotList;
        Ok(Self {
            get: get.ok_or_else(|| missing("C_GetSlotList"))?,
            apart,
        })
    }

    /// The slots, or those with a token.
    ///
    /// # Errors
    /// [`SignerError::Call`]; it is `CKR_BUFFER_TOO_SMALL` where the module contradicts itself.
    pub(super) fn list(&self, with_token: bool, _: &Inside<'_>) -> Result<Vec<Slot>, SignerError> {
        let Some(apart) = &self.apart else {
            return self.listed(with_token);
        };
        let _alone = lock(&apart.alone);
        let mut arguments = sys::CK_C_INITIALIZE_ARGS {
            CreateMutex: None,
            DestroyMutex: None,
            LockMutex: None,
            UnlockMutex: None,
            flags: sys::CKF_OS_LOCKING_OK,
            pReserved: std::ptr::null_mut(),
        };
        // SAFETY: arguments that live until it returns, and nobody else calls these functions.
        let rv = unsafe { (apart.initialize)((&raw mut arguments).cast()) };
        ruled(rv, Function::Initialize)?;
        let listed = self.listed(with_token);
        // SAFETY: nobody else is inside these functions. Its answer changes nothing.
        unsafe { (apart.finalize)(std::ptr::null_mut()) };
        listed
    }

    fn listed(&self, with_token: bool) -> Result<Vec<Slot>, SignerError> {
        let with_token = if with_token {
            sys::CK_TRUE
        } else {
            sys::CK_FALSE
        };
        let mut count: sys::CK_ULONG = 0;
        // SAFETY: without a list the module tells the length alone (PKCS#11 v3.1 §5.2).
        let rv = unsafe { (self.get)(with_token, std::ptr::null_mut(), &raw mut count) };
        ruled(rv, Function::GetSlotList)?;
        let mut answer = sys::CKR_OK;
        for _ in 0..TRIES {
            let wanted = usize::try_from(count).unwrap_or(usize::MAX);
            if wanted == 0 {
                break;
            }
            let mut slots = vec![0; wanted.min(SLOTS_MAX)];
            count = sys::CK_ULONG::try_from(slots.len()).unwrap_or_default();
            // SAFETY: `count` says how long the list is.
            answer = unsafe { (self.get)(with_token, slots.as_mut_ptr(), &raw mut count) };
            if answer == sys::CKR_BUFFER_TOO_SMALL {
                continue;
            }
            ruled(answer, Function::GetSlotList)?;
            // They may have become fewer.
            slots.truncate(usize::try_from(count).unwrap_or(usize::MAX));
            let slots = slots.into_iter().map(Slot::try_from);
            return slots
                .collect::<Result<_, _>>()
                .map_err(SignerError::from_cryptoki);
        }
        ruled(answer, Function::GetSlotList)?;
        Ok(Vec::new())
    }
}

fn ruled(rv: sys::CK_RV, function: Function) -> Result<(), SignerError> {
    let ruled = Rv::from(rv).into_result(function);
    ruled.map_err(SignerError::from_cryptoki)
}
