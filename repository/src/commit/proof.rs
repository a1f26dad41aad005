//! Whether an object that opens a repository is whole. Needs none of the operator keys that it is for.
use super::header;
use crate::error::{Error, Result};
use crate::id::{KeyId, RepositoryId};
use crate::keys::Keys;
use crate::label::Label;
use crate::masters;
use crate::wrapper::wrapped_for;

/// What these are called, and whose they are.
pub(crate) const OPERATORS: [&str; 3] = [masters::PREFIX, "keys/", "labels/"];
/// Whatever is longer is none of them.
pub(crate) const OPERATOR_OBJECT_MAX: u64 = masters::OBJECT_MAX;

/// For which operator key the object under `masters/`, `keys/` or `labels/` is.
pub(crate) fn operator_of(object: &str) -> Option<KeyId> {
    let named = object.strip_prefix("keys/").or_else(|| object.strip_prefix("labels/"));
    named.map_or_else(|| masters::parse(object).map(|(_, id)| id), |id| id.parse().ok())
}

/// Whose header it is.
pub(crate) fn header_id(header: &[u8]) -> Result<RepositoryId> {
    header::read(header)
}

/// The header is this repository's, whole.
pub(crate) fn prove_header(keys: &Keys, bytes: &[u8]) -> Result<()> {
    if header::read(bytes)? != keys.repository() {
        return Err(Error::corrupt("the header is another repository's"));
    }
    header::prove(keys, bytes)
}

/// A wrapped root key, masters, or a label.
pub(crate) fn prove_operator(keys: &Keys, object: &str, body: &[u8]) -> Result<()> {
    if let Some((epoch, _)) = masters::parse(object) {
        return masters::whole(body, keys.repository(), epoch);
    }
    let id = operator_of(object).ok_or_else(|| Error::invalid(format!("{object} is of no operator key")))?;
    if object.starts_with("labels/") {
        return Label::open(body, keys, id).map(drop);
    }
    let ours = wrapped_for(body)? == keys.repository();
    if ours { Ok(()) } else { Err(Error::corrupt("it is another repository's")) }
}
