//! `x-kubernetes-validations`: rules in CEL, with Kubernetes' messages, transition rules and
//! ratcheting.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use kube_core::cel::KubeCelExt as _;
use kube_core::cel::cel::objects::{Key, Map as CelMap, OptionalValue};
use kube_core::cel::cel::{Context, Program, Value as Cel};
use serde_json::Value;

use crate::schema::parts::Step;
use crate::schema::{Additional, Schema, Topology, Type};
use crate::validate::FieldError;

/// One rule, compiled.
#[derive(Debug, Clone)]
pub struct Rule {
    text: String,
    message: Option<String>,
    message_expression: Option<Arc<Program>>,
    reason: Option<String>,
    field_path: Option<String>,
    optional_old: bool,
    /// `None` when the expression does not compile; such definitions are refused.
    program: Option<Arc<Program>>,
    uses_old: bool,
}

/// The rules of a schema node.
pub(crate) fn rules(node: &Value) -> Vec<Rule> {
    let entries = node.get("x-kubernetes-validations").and_then(Value::as_array);
    entries.into_iter().flatten().map(rule).collect()
}

fn rule(entry: &Value) -> Rule {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_owned);
    let source = text("rule").unwrap_or_default();
    let program = Program::compile(&source).ok().map(Arc::new);
    let uses_old = program.as_ref().is_some_and(|p| p.references().has_variable("oldSelf"));
    Rule {
        message: text("message"),
        message_expression: text("messageExpression").and_then(|e| Program::compile(&e).ok()).map(Arc::new),
        reason: text("reason"),
        field_path: text("fieldPath"),
        optional_old: entry.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or(false),
        program,
        uses_old,
        text: source,
    }
}

/// What is wrong with an expression's syntax, if anything.
pub fn compile_error(expression: &str) -> Option<String> {
    Program::compile(expression).err().map(|e| e.to_string())
}

/// Whether the schema has rules at all.
pub fn has_rules(schema: &Schema) -> bool {
    !schema.rules.is_empty()
        || schema.properties.values().any(has_rules)
        || schema.items.as_deref().is_some_and(has_rules)
        || matches!(&schema.additional, Additional::Schema(entry) if has_rules(entry))
}

/// Evaluates every rule. A rule that fails on a value which is as it was before is let pass,
/// unless it compares with the old value.
pub fn validate(schema: &Schema, value: &Value, old: Option<&Value>, warnings: &mut Vec<String>) -> Vec<FieldError> {
    if !has_rules(schema) {
        return Vec::new();
    }
    let mut root = Context::default();
    root.register_all();
    types(&mut root);
    let mut found = Found { errors: Vec::new(), warnings };
    node(&root, schema, value, old, "", &mut found);
    found.errors
}

/// What the rules found.
struct Found<'w> {
    errors: Vec<FieldError>,
    /// What was wrong before, and has not changed.
    warnings: &'w mut Vec<String>,
}

/// `type(x)` and the names of types, which the library leaves out.
fn types(root: &mut Context<'_>) {
    for name in ["int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type"] {
        root.add_variable_from_value(name, Cel::String(Arc::new(format!("type:{name}"))));
    }
    root.add_function("type", |value: Cel| -> Result<Cel, kube_core::cel::cel::ExecutionError> {
        let name = match value {
            Cel::Int(_) => "int",
            Cel::UInt(_) => "uint",
            Cel::Float(_) => "double",
            Cel::Bool(_) => "bool",
            Cel::String(_) => "string",
            Cel::Bytes(_) => "bytes",
            Cel::List(_) => "list",
            Cel::Map(_) => "map",
            _ => "null_type",
        };
        Ok(Cel::String(Arc::new(format!("type:{name}"))))
    });
}

fn node(root: &Context<'_>, schema: &Schema, value: &Value, old: Option<&Value>, path: &str, found: &mut Found<'_>) {
    if value.is_null() {
        return;
    }
    if !schema.rules.is_empty() {
        let this = convert(schema, value);
        for rule in &schema.rules {
            let Some(program) = &rule.program else { continue };
            if rule.uses_old && old.is_none() && !rule.optional_old {
                continue;
            }
            let same = !rule.uses_old && old == Some(value);
            let mut scope = root.new_inner_scope();
            scope.add_variable_from_value("self", this.clone());
            if rule.optional_old {
                let optional = old.map_or_else(OptionalValue::none, |old| OptionalValue::of(convert(schema, old)));
                scope.add_variable_from_value("oldSelf", Cel::Opaque(Arc::new(optional)));
            } else if let Some(old) = old {
                scope.add_variable_from_value("oldSelf", convert(schema, old));
            }
            match program.execute(&scope) {
                Ok(Cel::Bool(true)) => {}
                Ok(_) if same => found.warnings.push(failure(rule, &scope, value, path).to_string()),
                Ok(_) => found.errors.push(failure(rule, &scope, value, path)),
                Err(_) if same => {}
                Err(error) => {
                    let reason = match &error {
                        kube_core::cel::cel::ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
                        kube_core::cel::cel::ExecutionError::FunctionError { message, .. }
                            if message.starts_with("no numeric value in") =>
                        {
                            crate::schema::quantity::MISFIT.to_owned()
                        }
                        kube_core::cel::cel::ExecutionError::FunctionError { message, .. } => message.clone(),
                        other => other.to_string(),
                    };
                    let detail = format!("{reason} evaluating rule: {}", rule.message.as_deref().unwrap_or(&rule.text));
                    found.errors.push(FieldError::invalid(shown(path), &Value::String(String::new()), &detail));
                }
            }
        }
    }
    for part in schema.parts(value) {
        let before = match part.step {
            Step::Field(name) => old.and_then(|old| old.get(name)),
            Step::Entry(_) => old.and_then(|old| same_entry(schema, part.value, old)),
        };
        node(root, part.schema, part.value, before, &part.at(path), found);
    }
}

/// The entry of the old list with the same keys.
fn same_entry<'o>(schema: &Schema, entry: &Value, old: &'o Value) -> Option<&'o Value> {
    let Some(Topology::Map(keys)) = &schema.topology else { return None };
    old.as_array()?.iter().find(|o| keys.iter().all(|k| o.get(k) == entry.get(k)))
}

fn shown(path: &str) -> &str {
    if path.is_empty() { "<nil>" } else { path }
}

fn failure(rule: &Rule, scope: &Context<'_>, value: &Value, path: &str) -> FieldError {
    let computed = rule.message_expression.as_ref().and_then(|program| match program.execute(scope) {
        Ok(Cel::String(text)) => Some(text.trim().to_owned()).filter(|t| !t.is_empty() && !t.contains('\n')),
        _ => None,
    });
    let message =
        computed.or_else(|| rule.message.clone()).unwrap_or_else(|| format!("failed rule: {}", rule.text.trim()));
    let field = match &rule.field_path {
        Some(below) => format!("{path}{below}").trim_start_matches('.').to_owned(),
        None => shown(path).to_owned(),
    };
    match rule.reason.as_deref() {
        Some("FieldValueRequired") => FieldError::required(field, &message),
        Some("FieldValueForbidden") => FieldError::forbidden(field, &message),
        Some("FieldValueDuplicate") => FieldError::duplicate(field, value),
        _ if value.is_object() || value.is_array() => {
            FieldError { reason: "FieldValueInvalid", field, message: format!("Invalid value: {message}") }
        }
        _ if rule.field_path.is_some() => {
            FieldError { reason: "FieldValueInvalid", field, message: format!("Invalid value: {message}") }
        }
        _ => FieldError::invalid(field, value, &message),
    }
}

/// A JSON value as CEL sees it: strings of known formats are times, durations and bytes, and the
/// names of fields are escaped.
fn convert(schema: &Schema, value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(b) => Cel::Bool(*b),
        Value::Number(number) => match number.as_i64() {
            Some(whole) if schema.ty != Type::Number => Cel::Int(whole),
            _ => Cel::Float(number.as_f64().unwrap_or(0.0)),
        },
        Value::String(text) => string(schema.format.as_deref().unwrap_or_default(), text),
        Value::Array(entries) => {
            let any = Schema::default();
            let items = schema.items.as_deref().unwrap_or(&any);
            Cel::List(Arc::new(entries.iter().map(|entry| convert(items, entry)).collect()))
        }
        Value::Object(fields) => {
            let target = schema.resolve();
            let is_map = target.is_map();
            let any = Schema::default();
            let map: HashMap<Key, Cel> = fields
                .iter()
                .map(|(name, inner)| {
                    let key = if is_map { name.clone() } else { escape(name) };
                    (Key::String(Arc::new(key)), convert(target.field(name).unwrap_or(&any), inner))
                })
                .collect();
            Cel::Map(CelMap { map: Arc::new(map) })
        }
    }
}

fn string(format: &str, text: &str) -> Cel {
    let plain = || Cel::String(Arc::new(text.to_owned()));
    let call = |function: &str| {
        let program = Program::compile(&format!("{function}({text:?})")).ok()?;
        program.execute(&Context::default()).ok()
    };
    match format {
        "date-time" => call("timestamp").unwrap_or_else(plain),
        "duration" => call("duration").unwrap_or_else(plain),
        "byte" => base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_or_else(|_| plain(), |bytes| Cel::Bytes(Arc::new(bytes))),
        _ => plain(),
    }
}

/// Kubernetes' escaping of field names that CEL cannot spell.
fn escape(name: &str) -> String {
    const RESERVED: [&str; 21] = [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    if name.contains("__") || name.contains(['.', '-', '/']) {
        return name
            .replace("__", "__underscores__")
            .replace('.', "__dot__")
            .replace('-', "__dash__")
            .replace('/', "__slash__");
    }
    name.to_owned()
}
