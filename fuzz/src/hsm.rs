//! Targets over `chancery-hsm`: what the disk gives back.

use aws_lc_rs::digest::{SHA256, digest};
use chancery_hsm::disk::{KeyFileProblem, inspect};
use chancery_hsm::pkcs11::parse_record;
use chancery_hsm::{KeyRef, PublicKeyInfo};

/// The targets of this module.
pub const TARGETS: &[super::Target] = &[("key_file", key_file), ("pin_record", pin_record)];

/// A key file as it is, and with its checksum mended, so that what lies behind it is reached.
pub fn key_file(data: &[u8]) {
    judge(data);
    if let Some((content, checksum)) = data.split_last_chunk::<32>() {
        let mended = digest(&SHA256, content);
        if mended.as_ref() != checksum {
            assert!(inspect(data).is_err(), "a checksum that is not looked at");
            judge(&[content, mended.as_ref()].concat());
        }
    }
}

fn judge(data: &[u8]) {
    let judged = inspect(data);
    assert_eq!(inspect(data), judged);
    let Ok(facts) = judged else { return };
    assert!((1..=KeyRef::LABEL_BYTES_MAX).contains(&facts.key.label.len()));
    let public = PublicKeyInfo::from_spki_der(&facts.public.spki_der);
    assert_eq!(public, Some(facts.public));
    // Neither less nor more is a key file as well.
    for bytes in [0, 1, data.len() / 2, data.len() - 1] {
        assert_eq!(inspect(&data[..bytes]), Err(KeyFileProblem::Torn { bytes }));
    }
    let longer = [data, &[0]].concat();
    assert_eq!(inspect(&longer), Err(KeyFileProblem::Trailing { bytes: 1 }));
}

/// A record of PINs that were tried: one that was cut off is none, so that it counts as a try.
pub fn pin_record(data: &[u8]) {
    let Some(tried) = parse_record(data) else {
        return;
    };
    assert!(tried.len() <= 16);
    for (n, one) in tried.iter().enumerate() {
        assert!(one.serial.len() <= 64);
        let said = one.said.as_deref().unwrap_or_default();
        assert!(said.len() <= 64 && said.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        assert!(tried[..n].iter().all(|other| other.serial != one.serial));
    }
    if let Some((_, shorter)) = data.split_last() {
        assert!(shorter.is_empty() || parse_record(shorter).is_none());
    }
}
