//! Logins on tokens. Decided here, so that of nodes that share a token one tries its PIN.

use super::Ruling;
use crate::command::{ClaimLogin, LoginEnd, Outcome, Refusal, SettleLogin};
use crate::model::{LoginAttempt, LoginRefused, TokenLogin};
use crate::view::Txn;

/// Before it, a login that an order took the place of was forgotten.
const CUT_OFF_LEVEL: u32 = 4;

/// Opens a login. Refused after a refusal and beside the login of another node, unless an
/// administrator orders it; beside one that may still end, to him as well.
pub(super) fn claim(txn: &mut Txn<'_>, command: &ClaimLogin) -> Ruling {
    if !(1..=TokenLogin::SERIAL_BYTES_MAX).contains(&command.serial.len()) {
        return Ok(Err(Refusal::Malformed));
    }
    if txn.member(command.node_id)?.is_none() {
        return Ok(Err(Refusal::NotFound));
    }
    let mut login = match txn.token_login(&command.serial)? {
        Some(login) => login,
        None if txn.count_token_logins()? >= TokenLogin::COUNT_MAX => {
            return Ok(Err(Refusal::TooManyTokens));
        }
        None => TokenLogin {
            serial: command.serial.clone(),
            ..TokenLogin::default()
        },
    };
    if login.refusal.is_some() && !command.ordered {
        return Ok(Err(Refusal::LoginRefused));
    }
    if let Some(open) = &login.attempt {
        let own = open.node_id == command.node_id;
        let lost = txn.now().saturating_sub(open.begun_at) >= TokenLogin::LOST_AFTER;
        // A start of a node tries one PIN after the other: its earlier try is over.
        let over = own && open.boot == command.boot && open.sequence < command.sequence;
        if !over && !(command.ordered && (own || lost)) {
            return Ok(Err(Refusal::LoginUnderWay));
        }
        // The one that an order takes the place of may have spent a try: that stands until the
        // token has taken a PIN, also where the order never reaches the token.
        if !over
            && txn
                .cluster()?
                .is_some_and(|c| c.feature_level >= CUT_OFF_LEVEL)
        {
            login.refusal.get_or_insert_with(|| LoginRefused {
                node_id: open.node_id,
                why: "cut off".to_owned(),
                at: txn.now(),
            });
        }
    }
    login.attempt = Some(LoginAttempt {
        node_id: command.node_id,
        boot: command.boot,
        sequence: command.sequence,
        begun_at: txn.now(),
    });
    txn.put_token_login(&login);
    Ok(Ok(Outcome::default()))
}

/// Closes the login that is under way, and no other.
pub(super) fn settle(txn: &mut Txn<'_>, command: &SettleLogin) -> Ruling {
    let (node_id, why) = (command.node_id, &command.why);
    let Some(mut login) = txn.token_login(&command.serial)? else {
        return Ok(Err(Refusal::NotFound));
    };
    let open = login.attempt.take();
    if !open.is_some_and(|open| open.is(node_id, command.boot, command.sequence)) {
        return Ok(Err(Refusal::Conflict));
    }
    if why.len() > TokenLogin::WHY_BYTES_MAX {
        return Ok(Err(Refusal::Malformed));
    }
    match command.end() {
        LoginEnd::Accepted => login.refusal = None,
        LoginEnd::Refused => {
            login.refusal = Some(LoginRefused {
                node_id,
                why: why.clone(),
                at: txn.now(),
            });
        }
        LoginEnd::NotTried => {}
        LoginEnd::Unspecified => return Ok(Err(Refusal::Malformed)),
    }
    match login.refusal {
        Some(_) => txn.put_token_login(&login),
        None => txn.remove_token_login(&login.serial),
    }
    Ok(Ok(Outcome::default()))
}
