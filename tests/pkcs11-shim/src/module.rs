//! The module itself: the table of functions that an application gets, and the way to the module
//! behind.
//!
//! The one place with unsafe code: a C interface is passed on. Every pointer that an application
//! gives is handed to the module behind it as it came; the shim itself reads and writes only what
//! the comments beside it name.

#![allow(unsafe_code)]
#![allow(non_snake_case)]

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::ptr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use cryptoki_sys as sys;
use libloading::{Library, Symbol};

use crate::calls::Call;
use crate::control::{CONTROL, MODULE};
use crate::faults::{Faults, Verdict, die};

/// Private keys that are looked at for one to sign in the place of another.
const KEYS_MAX: usize = 256;

struct Shim {
    /// Never unloaded: its threads may be inside.
    _library: Library,
    real: sys::CK_FUNCTION_LIST,
    faults: Option<Faults>,
    /// Held by who is inside the module behind: what is lost is closed there while nobody is, for
    /// SoftHSM does not bear to lose a session in the middle of a call.
    calls: RwLock<()>,
    tokens: Mutex<Tokens>,
}

/// What this process has open.
#[derive(Default)]
struct Tokens {
    /// Slots of the sessions that are open and not lost.
    sessions: BTreeMap<sys::CK_SESSION_HANDLE, sys::CK_SLOT_ID>,
    /// As the control file had it when it was looked at last.
    session_epoch: u64,
    absent: bool,
    /// The token was away since the module was initialised.
    was_absent: bool,
}

static SHIM: OnceLock<Option<Shim>> = OnceLock::new();
static LIST: OnceLock<sys::CK_FUNCTION_LIST> = OnceLock::new();

fn load() -> Option<Shim> {
    let path = PathBuf::from(env::var_os(MODULE)?);
    // SAFETY: loading a PKCS#11 module runs its constructors, as for every application of it.
    let library = unsafe { Library::new(path) }.ok()?;
    let mut list: *mut sys::CK_FUNCTION_LIST = ptr::null_mut();
    {
        // SAFETY: the symbol has this type in every PKCS#11 module.
        let get: Symbol<'_, unsafe extern "C" fn(*mut *mut sys::CK_FUNCTION_LIST) -> sys::CK_RV> =
            unsafe { library.get(b"C_GetFunctionList\0") }.ok()?;
        // SAFETY: `list` lives until the call is back.
        if unsafe { get(&raw mut list) } != sys::CKR_OK {
            return None;
        }
    }
    // SAFETY: a module that answered CKR_OK points to a table that lives as long as itself.
    let real = *unsafe { list.as_ref() }?;
    let faults = match env::var_os(CONTROL) {
        Some(control) => Some(Faults::new(&PathBuf::from(control)).ok()?),
        None => None,
    };
    Some(Shim {
        _library: library,
        real,
        faults,
        calls: RwLock::default(),
        tokens: Mutex::default(),
    })
}

fn shim() -> Option<&'static Shim> {
    SHIM.get_or_init(load).as_ref()
}

/// The way into the module.
///
/// # Safety
/// `list` is null or may be written to.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn C_GetFunctionList(
    list: *mut *mut sys::CK_FUNCTION_LIST,
) -> sys::CK_RV {
    let Some(shim) = shim() else {
        return sys::CKR_GENERAL_ERROR;
    };
    if list.is_null() {
        return sys::CKR_ARGUMENTS_BAD;
    }
    let own = LIST.get_or_init(|| table(shim.real));
    // SAFETY: not null, and the caller's to be written to. Nobody writes to the table.
    unsafe { *list = ptr::from_ref(own).cast_mut() };
    sys::CKR_OK
}

/// Whose answer a call has: the shim's own, or that of the module behind, or that and another code.
struct Passage<'a> {
    verdict: Verdict,
    _inside: RwLockReadGuard<'a, ()>,
}

impl Shim {
    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before a call: `Err` with its answer where it is not made.
    fn enter(
        &self,
        call: Call,
        session: Option<sys::CK_SESSION_HANDLE>,
    ) -> Result<Passage<'_>, sys::CK_RV> {
        let Some(faults) = &self.faults else {
            return Ok(self.untouched());
        };
        if call.is_counted() {
            // A count that is lost fails the test that asks for it.
            let _ = faults.state().count(call);
        }
        let verdict = faults.judge(call);
        self.look_at_token(faults);
        let passage = Passage {
            verdict,
            ..self.untouched()
        };
        if let Some(rv) = self.absence(call, session) {
            return Err(rv);
        }
        match passage.verdict {
            Verdict::Answer(code) => Err(code as sys::CK_RV),
            _ => Ok(passage),
        }
    }

    /// A call that nothing happens to.
    fn untouched(&self) -> Passage<'_> {
        Passage {
            verdict: Verdict::Pass,
            _inside: self.calls.read().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// After a call.
    fn leave(&self, passage: &Passage<'_>, rv: sys::CK_RV) -> sys::CK_RV {
        match passage.verdict {
            Verdict::AnswerAfter(code) => code as sys::CK_RV,
            Verdict::KillAfter => {
                die();
                rv
            }
            Verdict::Pass | Verdict::Answer(_) => rv,
        }
    }

    /// Takes away what is lost since the last call.
    fn look_at_token(&self, faults: &Faults) {
        let control = faults.control();
        let is_lost = |tokens: &Tokens| {
            control.session_epoch != tokens.session_epoch || control.token_absent && !tokens.absent
        };
        let lost = is_lost(&self.tokens());
        let alone = lost.then(|| self.calls.write().unwrap_or_else(PoisonError::into_inner));
        let mut tokens = self.tokens();
        let lost = alone.is_some() && is_lost(&tokens);
        tokens.session_epoch = control.session_epoch;
        tokens.absent = control.token_absent;
        tokens.was_absent |= control.token_absent;
        if lost && let Some(close) = self.real.C_CloseAllSessions {
            let slots: Vec<_> = tokens.sessions.values().copied().collect();
            for slot in slots {
                // SAFETY: a function of the module behind, with a slot that it named.
                unsafe { close(slot) };
            }
            tokens.sessions.clear();
        }
    }

    /// What a call is told because the token, or the session, is not there any more.
    fn absence(&self, call: Call, session: Option<sys::CK_SESSION_HANDLE>) -> Option<sys::CK_RV> {
        let tokens = self.tokens();
        match session {
            Some(session) if !tokens.sessions.contains_key(&session) => Some(if tokens.absent {
                sys::CKR_DEVICE_REMOVED
            } else {
                sys::CKR_SESSION_HANDLE_INVALID
            }),
            Some(_) => None,
            None if !tokens.absent => None,
            None => match call {
                Call::GetTokenInfo
                | Call::GetMechanismList
                | Call::GetMechanismInfo
                | Call::InitToken
                | Call::OpenSession => Some(sys::CKR_TOKEN_NOT_PRESENT),
                _ => None,
            },
        }
    }

    fn hides_keys(&self) -> bool {
        let hidden = |faults: &Faults| faults.control().keys_hidden_until_initialised;
        self.tokens().was_absent && self.faults.as_ref().is_some_and(hidden)
    }

    /// Another private key of the same type in the place of `key`, if there is one.
    ///
    /// # Safety
    /// No search is under way in the session.
    unsafe fn swapped(
        &self,
        session: sys::CK_SESSION_HANDLE,
        key: sys::CK_OBJECT_HANDLE,
    ) -> Option<sys::CK_OBJECT_HANDLE> {
        let mut class = sys::CKO_PRIVATE_KEY;
        let mut kind: sys::CK_KEY_TYPE = 0;
        let mut wanted = [sys::CK_ATTRIBUTE {
            type_: sys::CKA_KEY_TYPE,
            pValue: ptr::from_mut(&mut kind).cast(),
            ulValueLen: size_of_val(&kind) as sys::CK_ULONG,
        }];
        // SAFETY: one attribute whose value has room for what it is.
        let read =
            unsafe { (self.real.C_GetAttributeValue?)(session, key, wanted.as_mut_ptr(), 1) };
        if read != sys::CKR_OK {
            return None;
        }
        let mut template = [
            sys::CK_ATTRIBUTE {
                type_: sys::CKA_CLASS,
                pValue: ptr::from_mut(&mut class).cast(),
                ulValueLen: size_of_val(&class) as sys::CK_ULONG,
            },
            wanted[0],
        ];
        let mut found = [0; KEYS_MAX];
        let mut count = 0;
        // SAFETY: two attributes, room for as many handles as is said, and a search that is ended.
        let ended = unsafe {
            if (self.real.C_FindObjectsInit?)(session, template.as_mut_ptr(), 2) != sys::CKR_OK {
                return None;
            }
            let room = found.len() as sys::CK_ULONG;
            (self.real.C_FindObjects?)(session, found.as_mut_ptr(), room, &raw mut count);
            (self.real.C_FindObjectsFinal?)(session)
        };
        let found = found.get(..usize::try_from(count).ok()?)?;
        let mut others = found.iter().filter(|other| **other != key);
        (ended == sys::CKR_OK).then(|| others.next().copied())?
    }
}

/// Defines functions that pass through `enter` and `leave`; with `session` first where they have one.
macro_rules! passes {
    (@session $first:ident) => { None };
    (@session session $first:ident) => { Some($first) };
    ($($(#[$kind:ident])? fn $name:ident / $call:ident ($first:ident: $first_type:ty $(, $arg:ident: $type:ty)*);)*) => {
        $(
            unsafe extern "C" fn $name($first: $first_type $(, $arg: $type)*) -> sys::CK_RV {
                let Some(shim) = shim() else {
                    return sys::CKR_GENERAL_ERROR;
                };
                let session = passes!(@session $($kind)? $first);
                let passage = match shim.enter(Call::$call, session) {
                    Ok(passage) => passage,
                    Err(rv) => return rv,
                };
                let Some(real) = shim.real.$name else {
                    return sys::CKR_FUNCTION_NOT_SUPPORTED;
                };
                // SAFETY: the arguments as the caller gave them.
                let rv = unsafe { real($first $(, $arg)*) };
                shim.leave(&passage, rv)
            }
        )*
    };
}

passes! {
    fn C_GetMechanismList / GetMechanismList (slot: sys::CK_SLOT_ID, list: sys::CK_MECHANISM_TYPE_PTR, count: sys::CK_ULONG_PTR);
    fn C_GetMechanismInfo / GetMechanismInfo (slot: sys::CK_SLOT_ID, mechanism: sys::CK_MECHANISM_TYPE, info: sys::CK_MECHANISM_INFO_PTR);
    fn C_InitToken / InitToken (slot: sys::CK_SLOT_ID, pin: sys::CK_UTF8CHAR_PTR, length: sys::CK_ULONG, label: sys::CK_UTF8CHAR_PTR);
    #[session] fn C_InitPIN / InitPIN (session: sys::CK_SESSION_HANDLE, pin: sys::CK_UTF8CHAR_PTR, length: sys::CK_ULONG);
    #[session] fn C_GetSessionInfo / GetSessionInfo (session: sys::CK_SESSION_HANDLE, info: sys::CK_SESSION_INFO_PTR);
    #[session] fn C_Logout / Logout (session: sys::CK_SESSION_HANDLE);
    #[session] fn C_DestroyObject / DestroyObject (session: sys::CK_SESSION_HANDLE, object: sys::CK_OBJECT_HANDLE);
    #[session] fn C_GetAttributeValue / GetAttributeValue (session: sys::CK_SESSION_HANDLE, object: sys::CK_OBJECT_HANDLE, template: sys::CK_ATTRIBUTE_PTR, count: sys::CK_ULONG);
    #[session] fn C_SetAttributeValue / SetAttributeValue (session: sys::CK_SESSION_HANDLE, object: sys::CK_OBJECT_HANDLE, template: sys::CK_ATTRIBUTE_PTR, count: sys::CK_ULONG);
    #[session] fn C_FindObjectsInit / FindObjectsInit (session: sys::CK_SESSION_HANDLE, template: sys::CK_ATTRIBUTE_PTR, count: sys::CK_ULONG);
    #[session] fn C_FindObjectsFinal / FindObjectsFinal (session: sys::CK_SESSION_HANDLE);
    #[session] fn C_GenerateKeyPair / GenerateKeyPair (session: sys::CK_SESSION_HANDLE, mechanism: sys::CK_MECHANISM_PTR, public: sys::CK_ATTRIBUTE_PTR, public_count: sys::CK_ULONG, private: sys::CK_ATTRIBUTE_PTR, private_count: sys::CK_ULONG, public_key: sys::CK_OBJECT_HANDLE_PTR, private_key: sys::CK_OBJECT_HANDLE_PTR);
}

/// Functions of which the shim must know more.
mod special {
    use super::{Call, shim, sys};

    macro_rules! enter {
        ($call:ident, $session:expr) => {{
            let Some(shim) = shim() else {
                return sys::CKR_GENERAL_ERROR;
            };
            match shim.enter(Call::$call, $session) {
                Ok(passage) => (shim, passage),
                Err(rv) => return rv,
            }
        }};
    }

    /// The function of the module behind.
    macro_rules! real {
        ($shim:ident . $name:ident) => {
            match $shim.real.$name {
                Some(real) => real,
                None => return sys::CKR_FUNCTION_NOT_SUPPORTED,
            }
        };
    }

    pub(super) unsafe extern "C" fn C_Initialize(arguments: sys::CK_VOID_PTR) -> sys::CK_RV {
        let (shim, passage) = enter!(Initialize, None);
        // SAFETY: the arguments as the caller gave them.
        let rv = unsafe { real!(shim.C_Initialize)(arguments) };
        if rv == sys::CKR_OK {
            let mut tokens = shim.tokens();
            tokens.sessions.clear();
            tokens.was_absent = tokens.absent;
        }
        shim.leave(&passage, rv)
    }

    pub(super) unsafe extern "C" fn C_Finalize(reserved: sys::CK_VOID_PTR) -> sys::CK_RV {
        let (shim, passage) = enter!(Finalize, None);
        // SAFETY: the arguments as the caller gave them.
        let rv = unsafe { real!(shim.C_Finalize)(reserved) };
        if rv == sys::CKR_OK {
            shim.tokens().sessions.clear();
        }
        shim.leave(&passage, rv)
    }

    pub(super) unsafe extern "C" fn C_GetSlotList(
        present: sys::CK_BBOOL,
        list: sys::CK_SLOT_ID_PTR,
        count: sys::CK_ULONG_PTR,
    ) -> sys::CK_RV {
        let (shim, passage) = enter!(GetSlotList, None);
        if present == sys::CK_TRUE && shim.tokens().absent {
            // SAFETY: the standard has callers give a count that may be written to.
            match unsafe { count.as_mut() } {
                Some(count) => *count = 0,
                None => return sys::CKR_ARGUMENTS_BAD,
            }
            return shim.leave(&passage, sys::CKR_OK);
        }
        // SAFETY: the arguments as the caller gave them.
        let rv = unsafe { real!(shim.C_GetSlotList)(present, list, count) };
        shim.leave(&passage, rv)
    }

    pub(super) unsafe extern "C" fn C_GetTokenInfo(
        slot: sys::CK_SLOT_ID,
        info: sys::CK_TOKEN_INFO_PTR,
    ) -> sys::CK_RV {
        let (shim, passage) = enter!(GetTokenInfo, None);
        // SAFETY: the arguments as the caller gave them.
        let rv = unsafe { real!(shim.C_GetTokenInfo)(slot, info) };
        let hidden = shim.faults.as_ref().map(|f| f.control().pin_flags_hidden);
        if rv == sys::CKR_OK && hidden == Some(true) {
            // SAFETY: the module behind has just filled it in.
            if let Some(info) = unsafe { info.as_mut() } {
                info.flags &= !(sys::CKF_USER_PIN_COUNT_LOW
                    | sys::CKF_USER_PIN_FINAL_TRY
                    | sys::CKF_USER_PIN_LOCKED);
            }
        }
        if rv == sys::CKR_OK
            && let Some(faults) = &shim.faults
            && let Some(tries) = faults.control().pin_tries
            && faults.control().pin_flags
        {
            let left = u64::from(tries).saturating_sub(faults.state().wrong_pins().unwrap_or(0));
            let flags = match left {
                0 => sys::CKF_USER_PIN_LOCKED,
                1 => sys::CKF_USER_PIN_FINAL_TRY | sys::CKF_USER_PIN_COUNT_LOW,
                left if left < u64::from(tries) => sys::CKF_USER_PIN_COUNT_LOW,
                _ => 0,
            };
            // SAFETY: the module behind has just filled it in.
            if let Some(info) = unsafe { info.as_mut() } {
                info.flags |= flags;
            }
        }
        shim.leave(&passage, rv)
    }

    pub(super) unsafe extern "C" fn C_OpenSession(
        slot: sys::CK_SLOT_ID,
        flags: sys::CK_FLAGS,
        application: sys::CK_VOID_PTR,
        notify: sys::CK_NOTIFY,
        session: sys::CK_SESSION_HANDLE_PTR,
    ) -> sys::CK_RV {
        let (shim, passage) = enter!(OpenSession, None);
        // SAFETY: the arguments as the caller gave them.
        let rv = unsafe { real!(shim.C_OpenSession)(slot, flags, application, notify, session) };
        // SAFETY: the module behind has just written it.
        if rv == sys::CKR_OK
            && let Some(session) = unsafe { session.as_ref() }
        {
            shim.tokens().sessions.insert(*session, slot);
        }
        shim.leave(&passage, rv)
    }

    pub(super) unsafe extern "C" fn C_CloseSession(session: sys::CK_SESSION_HANDLE) -> sys::CK_RV {
        let (shim, passage) = enter!(CloseSession, Some(session));
        shim.tokens().sessions.remove(&session);
        // SAFETY: the arguments as the caller gave them.
        let rv = unsafe { real!(shim.C_CloseSession)(session) };
        shim.leave(&passage, rv)
    }

    pub(super) unsafe extern "C" fn C_CloseAllSessions(slot: sys::CK_SLOT_ID) -> sys::CK_RV {
        let (shim, passage) = enter!(CloseAllSessions, None);
        shim.tokens().sessions.retain(|_, of| *of != slot);
        // SAFETY: the arguments as the caller gave them.
        let rv = unsafe { real!(shim.C_CloseAllSessions)(slot) };
        shim.leave(&passage, rv)
    }

    pub(super) unsafe extern "C" fn C_Login(
        session: sys::CK_SESSION_HANDLE,
        user: sys::CK_USER_TYPE,
        pin: sys::CK_UTF8CHAR_PTR,
        length: sys::CK_ULONG,
    ) -> sys::CK_RV {
        let (shim, passage) = enter!(Login, Some(session));
        let limited = match &shim.faults {
            Some(faults) if user == sys::CKU_USER => faults
                .control()
                .pin_tries
                .map(|tries| (faults.state(), tries)),
            _ => None,
        };
        if let Some((state, tries)) = limited
            && state
                .wrong_pins()
                .is_ok_and(|wrong| wrong >= u64::from(tries))
        {
            return sys::CKR_PIN_LOCKED;
        }
        // SAFETY: the arguments as the caller gave them.
        let rv = unsafe { real!(shim.C_Login)(session, user, pin, length) };
        if let Some((state, _)) = limited
            && matches!(rv, sys::CKR_OK | sys::CKR_PIN_INCORRECT)
        {
            // A try that is not noted leaves the token with one more.
            let _ = state.pin_was(rv == sys::CKR_OK);
        }
        shim.leave(&passage, rv)
    }

    pub(super) unsafe extern "C" fn C_FindObjects(
        session: sys::CK_SESSION_HANDLE,
        objects: sys::CK_OBJECT_HANDLE_PTR,
        max: sys::CK_ULONG,
        count: sys::CK_ULONG_PTR,
    ) -> sys::CK_RV {
        let (shim, passage) = enter!(FindObjects, Some(session));
        // SAFETY: the arguments as the caller gave them.
        let rv = unsafe { real!(shim.C_FindObjects)(session, objects, max, count) };
        if shim.hides_keys() {
            // SAFETY: the standard has callers give a count that may be written to.
            if let Some(count) = unsafe { count.as_mut() } {
                *count = 0;
            }
        }
        shim.leave(&passage, rv)
    }

    pub(super) unsafe extern "C" fn C_SignInit(
        session: sys::CK_SESSION_HANDLE,
        mechanism: sys::CK_MECHANISM_PTR,
        key: sys::CK_OBJECT_HANDLE,
    ) -> sys::CK_RV {
        let (shim, passage) = enter!(SignInit, Some(session));
        let swaps = shim
            .faults
            .as_ref()
            .is_some_and(|f| f.control().swapped_keys);
        // SAFETY: who begins to sign has ended its search; the session is one that is open.
        let other = swaps
            .then(|| unsafe { shim.swapped(session, key) })
            .flatten();
        // SAFETY: the arguments as the caller gave them, but for a key that was just found.
        let rv = unsafe { real!(shim.C_SignInit)(session, mechanism, other.unwrap_or(key)) };
        shim.leave(&passage, rv)
    }

    pub(super) unsafe extern "C" fn C_Sign(
        session: sys::CK_SESSION_HANDLE,
        data: sys::CK_BYTE_PTR,
        length: sys::CK_ULONG,
        signature: sys::CK_BYTE_PTR,
        signature_length: sys::CK_ULONG_PTR,
    ) -> sys::CK_RV {
        // Without a place for it only the length is asked for, which costs no token anything.
        let (shim, passage) = if signature.is_null() {
            let Some(shim) = shim() else {
                return sys::CKR_GENERAL_ERROR;
            };
            (shim, shim.untouched())
        } else {
            let (shim, passage) = enter!(Sign, Some(session));
            if let Some(faults) = &shim.faults {
                faults.wait_for_signature();
            }
            (shim, passage)
        };
        // SAFETY: the arguments as the caller gave them.
        let rv = unsafe { real!(shim.C_Sign)(session, data, length, signature, signature_length) };
        shim.leave(&passage, rv)
    }
}

/// The table of the module behind, with the shim's functions in the place of some.
fn table(real: sys::CK_FUNCTION_LIST) -> sys::CK_FUNCTION_LIST {
    sys::CK_FUNCTION_LIST {
        C_Initialize: Some(special::C_Initialize),
        C_Finalize: Some(special::C_Finalize),
        C_GetFunctionList: Some(C_GetFunctionList),
        C_GetSlotList: Some(special::C_GetSlotList),
        C_GetTokenInfo: Some(special::C_GetTokenInfo),
        C_GetMechanismList: Some(C_GetMechanismList),
        C_GetMechanismInfo: Some(C_GetMechanismInfo),
        C_InitToken: Some(C_InitToken),
        C_InitPIN: Some(C_InitPIN),
        C_OpenSession: Some(special::C_OpenSession),
        C_CloseSession: Some(special::C_CloseSession),
        C_CloseAllSessions: Some(special::C_CloseAllSessions),
        C_GetSessionInfo: Some(C_GetSessionInfo),
        C_Login: Some(special::C_Login),
        C_Logout: Some(C_Logout),
        C_DestroyObject: Some(C_DestroyObject),
        C_GetAttributeValue: Some(C_GetAttributeValue),
        C_SetAttributeValue: Some(C_SetAttributeValue),
        C_FindObjectsInit: Some(C_FindObjectsInit),
        C_FindObjects: Some(special::C_FindObjects),
        C_FindObjectsFinal: Some(C_FindObjectsFinal),
        C_SignInit: Some(special::C_SignInit),
        C_Sign: Some(special::C_Sign),
        C_GenerateKeyPair: Some(C_GenerateKeyPair),
        ..real
    }
}
