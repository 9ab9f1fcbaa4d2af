//! The functions that the shim stands in front of.

use serde::{Deserialize, Serialize};

macro_rules! calls {
    ($($name:ident,)*) => {
        /// A PKCS#11 function, without its `C_`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Call {
            $(
                #[doc = concat!("`C_", stringify!($name), "`")]
                $name,
            )*
        }

        impl Call {
            /// Every one, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

calls! {
    Initialize,
    Finalize,
    GetSlotList,
    GetTokenInfo,
    GetMechanismList,
    GetMechanismInfo,
    InitToken,
    InitPIN,
    OpenSession,
    CloseSession,
    CloseAllSessions,
    GetSessionInfo,
    Login,
    Logout,
    DestroyObject,
    GetAttributeValue,
    SetAttributeValue,
    FindObjectsInit,
    FindObjects,
    FindObjectsFinal,
    SignInit,
    Sign,
    GenerateKeyPair,
}

impl Call {
    /// Whether it is counted as it comes: signatures are when the token makes them, and what
    /// each needs besides is not.
    pub(crate) const fn is_counted(self) -> bool {
        !matches!(self, Self::SignInit | Self::Sign)
    }
}
