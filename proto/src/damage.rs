//! What a check found, in messages.
use palinurus_repository::verify::Damage;

use crate::v1;

pub fn damage(damage: &Damage) -> v1::Damage {
    let files = damage
        .files
        .iter()
        .map(|file| v1::SpoiledFile { node: file.node.clone(), path: file.path.clone().into() });
    v1::Damage {
        object: damage.object.clone(),
        what: damage.what.clone(),
        backups: damage.backups.iter().map(ToString::to_string).collect(),
        files: files.collect(),
        file_count: damage.file_count,
    }
}
