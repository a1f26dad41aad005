//! Lays `PALINURUS_SECTION__KEY` over the file.
use palinurus_repository::{Error, Result};
use toml::{Table, Value};

const PREFIX: &str = "PALINURUS_";

/// `template` says of which type a value is. Returns what was ignored, in words: a name without a section that is
/// no key of ours may be somebody else's (Kubernetes makes such names).
pub(super) fn overlay(
    table: &mut Table,
    template: &Table,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<String>> {
    let mut ignored = Vec::new();
    let mut ours: Vec<_> = environment
        .into_iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?.to_lowercase(), value)))
        .collect();
    ours.sort();
    for (name, text) in ours {
        let shown = format!("{PREFIX}{}", name.to_uppercase());
        match name.split_once("__") {
            Some((section, key)) => {
                let known = template.get(section).and_then(Value::as_table);
                let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
                let Some(entry) = entry.as_table_mut() else {
                    return Err(Error::invalid(format!("{shown}: {section} is no section")));
                };
                let like = entry.get(key).or_else(|| known?.get(key)).cloned();
                entry.insert(key.to_owned(), value(&text, like.as_ref()));
            }
            None => match template.get(&name) {
                Some(like) if !like.is_table() => {
                    table.insert(name, value(&text, Some(like)));
                }
                _ => ignored.push(format!("{shown} is set but is no setting of the agent: ignored")),
            },
        }
    }
    Ok(ignored)
}

fn value(text: &str, like: Option<&Value>) -> Value {
    let parsed =
        || format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    let plain = || Value::String(text.to_owned());
    match like {
        Some(Value::String(_)) => plain(),
        Some(Value::Array(_)) if !text.trim_start().starts_with('[') => {
            Value::Array(text.split(',').map(|part| Value::String(part.trim().to_owned())).collect())
        }
        _ => parsed().unwrap_or_else(plain),
    }
}
