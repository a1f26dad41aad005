//! Whether chosen tables can be restored at all: seen before a plan is made. Which tables there are the agent knows.
use palinurus_proto::{Choice, v1};
use palinurus_repository::{Error, Result};

/// Engines that can bring some of a backup back into a server that is in use.
const TYPES: [&str; 1] = ["clickhouse"];

/// `kind` is the service's type.
pub(crate) fn may_choose(request: &v1::RestoreRequest, kind: &str) -> Result<()> {
    let Some(choice) = &request.choice else { return Ok(()) };
    if !TYPES.contains(&kind) {
        return Err(Error::invalid(format!("tables cannot be chosen in a service of type {kind}"))
            .with_hint(format!(
                "that is done for {}; restore all of the backup, elsewhere if need be",
                TYPES.join(", ")
            )));
    }
    let with = [
        (request.delta, "--delta", "nothing that is there is overwritten"),
        (request.target.is_some(), "--to", "there is no log to follow"),
        (!request.into.is_empty(), "--into", "restore into the service itself, and rename them"),
    ];
    if let Some((_, option, why)) = with.into_iter().find(|(given, ..)| *given) {
        return Err(Error::invalid(format!("chosen tables are not restored with {option}: {why}"))
            .with_hint(format!("leave out {option}")));
    }
    Choice::parse(choice).map(drop)
}

#[cfg(test)]
mod tests {
    use palinurus_repository::ErrorKind;

    use super::*;

    #[test]
    fn what_cannot_be_chosen_is_refused() {
        let request = |tables: &[&str]| v1::RestoreRequest {
            choice: Some(v1::Choice {
                tables: tables.iter().map(|text| (*text).to_owned()).collect(),
                ..Default::default()
            }),
            ..Default::default()
        };
        may_choose(&request(&["d.*"]), "clickhouse").unwrap();
        may_choose(&v1::RestoreRequest { delta: true, ..Default::default() }, "files").unwrap();
        for (request, kind) in [
            (request(&["d.*"]), "files"),
            (request(&["d.*"]), "postgresql"),
            (request(&["d."]), "clickhouse"),
            (request(&[]), "clickhouse"),
            (v1::RestoreRequest { delta: true, ..request(&["d"]) }, "clickhouse"),
            (v1::RestoreRequest { into: "x".to_owned(), ..request(&["d"]) }, "clickhouse"),
            (v1::RestoreRequest { target: Some(v1::LogTarget::default()), ..request(&["d"]) }, "clickhouse"),
        ] {
            let error = may_choose(&request, kind).unwrap_err();
            assert!(error.kind() == ErrorKind::Invalid && error.hint().is_some(), "{error:?}");
        }
    }
}
