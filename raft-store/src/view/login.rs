//! Logins on tokens.

use super::{Table, Txn};
use crate::feed::ChangeKind;
use crate::model::TokenLogin;
use crate::store::StoreError;

impl Txn<'_> {
    /// What is known of logins on a token, by its serial.
    pub fn token_login(&self, serial: &str) -> Result<Option<TokenLogin>, StoreError> {
        self.get(Table::TokenLogins, serial.as_bytes())
    }

    /// Tokens that something is known of.
    pub fn count_token_logins(&self) -> Result<usize, StoreError> {
        let keys = self.keys(Table::TokenLogins, &[], TokenLogin::COUNT_MAX)?;
        Ok(keys.len())
    }

    /// Inserts or replaces what is known of a token.
    pub fn put_token_login(&mut self, login: &TokenLogin) {
        self.put(Table::TokenLogins, login.serial.as_bytes(), login);
        self.changed(ChangeKind::TokenLoginChanged(login.serial.clone()));
    }

    /// Forgets a token.
    pub fn remove_token_login(&mut self, serial: &str) {
        self.remove(Table::TokenLogins, serial.as_bytes());
        self.changed(ChangeKind::TokenLoginChanged(serial.to_owned()));
    }
}
