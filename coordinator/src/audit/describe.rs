//! What a call asks for, in JSON, whatever call it is: read by the protos' own description, so that a new one is noted
//! down like those before it.
use std::collections::HashMap;
use std::sync::LazyLock;

use palinurus_proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};
use serde_json::{Map, Value};

const TEXT_MAX: usize = 512;
const LIST_MAX: usize = 64;
/// A service has nodes, which have names.
const DEPTH_MAX: usize = 4;

struct Known {
    messages: HashMap<String, DescriptorProto>,
    /// Of each call, what goes in and what comes out.
    calls: HashMap<String, (String, String)>,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap_or_default();
    let mut known = Known { messages: HashMap::new(), calls: HashMap::new() };
    for file in set.file {
        let package = file.package().to_owned();
        for service in &file.service {
            for rpc in &service.method {
                let path = format!("/{package}.{}/{}", service.name(), rpc.name());
                known.calls.insert(path, (rpc.input_type().to_owned(), rpc.output_type().to_owned()));
            }
        }
        for message in file.message_type {
            known.add(&format!(".{package}"), message);
        }
    }
    known
});

impl Known {
    fn add(&mut self, within: &str, message: DescriptorProto) {
        let name = format!("{within}.{}", message.name());
        for nested in &message.nested_type {
            self.add(&name, nested.clone());
        }
        self.messages.insert(name, message);
    }
}

/// `framed` is the body of a gRPC call. What cannot be read is null: the call itself will say why.
pub(crate) fn described(path: &str, framed: &[u8]) -> Value {
    let input = KNOWN.calls.get(path).map(|(input, _)| input);
    input.and_then(|input| message(input, unframed(framed)?, 0)).unwrap_or_default()
}

/// The operation that was answered with, if that is what this call answers with.
pub(crate) fn operation(path: &str, framed: &[u8]) -> String {
    let answers = KNOWN.calls.get(path).is_some_and(|(_, output)| output == ".palinurus.v1.Operation");
    let found = || palinurus_proto::v1::Operation::decode(unframed(framed)?).ok();
    answers.then(found).flatten().map_or_else(String::new, |operation| operation.id)
}

fn unframed(framed: &[u8]) -> Option<&[u8]> {
    let (head, message) = framed.split_at_checked(5)?;
    (head[0] == 0).then_some(message)
}

fn message(name: &str, mut wire: &[u8], depth: usize) -> Option<Value> {
    let descriptor = KNOWN.messages.get(name)?;
    let mut said = Map::new();
    while !wire.is_empty() {
        let (tag, kind) = decode_key(&mut wire).ok()?;
        let field = descriptor.field.iter().find(|field| u32::try_from(field.number()) == Ok(tag));
        let value = match kind {
            WireType::Varint => number(field.map(|field| field.r#type()), decode_varint(&mut wire).ok()?),
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut wire).ok()?).ok()?;
                let (content, rest) = wire.split_at_checked(length)?;
                wire = rest;
                match field.map(|field| field.r#type()) {
                    Some(Type::String) => Value::from(harmless(&String::from_utf8_lossy(content))),
                    Some(Type::Message) if depth < DEPTH_MAX => {
                        message(field?.type_name(), content, depth + 1).unwrap_or_default()
                    }
                    _ => Value::from(format!("{} bytes", content.len())),
                }
            }
            other => {
                skip_field(other, tag, &mut wire, DecodeContext::default()).ok()?;
                Value::Null
            }
        };
        let Some(field) = field.filter(|_| !value.is_null()) else { continue };
        let slot = said.entry(field.name());
        if field.label() == Label::Repeated {
            let list = slot.or_insert_with(|| Value::Array(Vec::new()));
            if let Some(list) = list.as_array_mut().filter(|list| list.len() < LIST_MAX) {
                list.push(value);
            }
        } else {
            slot.or_insert(value);
        }
    }
    Some(Value::Object(said))
}

fn number(kind: Option<Type>, value: u64) -> Value {
    match kind {
        Some(Type::Bool) => Value::from(value != 0),
        _ => Value::from(value),
    }
}

/// Short, and a URL without what may be a secret: it is noted down before anybody refuses it for that.
fn harmless(text: &str) -> String {
    let mut text = match text.split_once("://") {
        Some((scheme, rest)) => {
            let rest = rest.split(['?', '#']).next().unwrap_or_default();
            let (authority, path) =
                rest.split_once('/').map_or((rest, None), |(before, path)| (before, Some(path)));
            let host = authority.rsplit('@').next().unwrap_or_default();
            path.map_or_else(|| format!("{scheme}://{host}"), |path| format!("{scheme}://{host}/{path}"))
        }
        None => text.to_owned(),
    };
    text.truncate(text.floor_char_boundary(TEXT_MAX));
    text
}
