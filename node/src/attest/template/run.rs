//! Running a parsed template on the data of one certificate.

use super::OUTPUT_BYTES_MAX;
use super::data::{Data, member};
use super::functions::{Budget, Function, Special};
use super::parse::{Binding, Command, Node, Pipeline, Term};
use super::value::Value;

/// The output of `nodes`.
pub(super) fn run(nodes: &[Node], data: &Data<'_>) -> Result<String, String> {
    let mut run = Run {
        data,
        variables: Vec::new(),
        budget: Budget::new(),
        output: String::new(),
    };
    run.list(nodes)?;
    Ok(run.output)
}

struct Run<'a> {
    data: &'a Data<'a>,
    /// Innermost last.
    variables: Vec<(&'a str, Value)>,
    budget: Budget,
    output: String,
}

impl<'a> Run<'a> {
    fn list(&mut self, nodes: &'a [Node]) -> Result<(), String> {
        for node in nodes {
            match node {
                Node::Text(text) => self.print(text)?,
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline)?;
                    if pipeline.variable.is_none() {
                        self.print(&printed(&value))?;
                    }
                }
                Node::If(branches, otherwise) => self.branch(branches, otherwise)?,
            }
        }
        Ok(())
    }

    fn branch(
        &mut self,
        branches: &'a [(Pipeline, Vec<Node>)],
        otherwise: &'a [Node],
    ) -> Result<(), String> {
        let scope = self.variables.len();
        let mut taken = otherwise;
        for (condition, nodes) in branches {
            if self.pipeline(condition)?.is_true() {
                taken = nodes;
                break;
            }
        }
        self.list(taken)?;
        self.variables.truncate(scope);
        Ok(())
    }

    fn print(&mut self, text: &str) -> Result<(), String> {
        if self.output.len() + text.len() > OUTPUT_BYTES_MAX {
            return Err(format!(
                "the result is longer than {OUTPUT_BYTES_MAX} bytes"
            ));
        }
        self.output.push_str(text);
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &'a Pipeline) -> Result<Value, String> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, last)?);
        }
        let value = last.unwrap_or(Value::Nil);
        match &pipeline.variable {
            None => {}
            Some((name, Binding::Declare)) => self.variables.push((name, value.clone())),
            Some((name, Binding::Assign)) => {
                let slot = self
                    .variables
                    .iter_mut()
                    .rev()
                    .find(|(known, _)| known == name);
                let slot = slot.ok_or_else(|| format!("undefined variable: {name}"))?;
                slot.1 = value.clone();
            }
        }
        Ok(value)
    }

    fn command(&mut self, command: &'a Command, last: Option<Value>) -> Result<Value, String> {
        self.budget.step()?;
        match command {
            Command::Call(function, arguments) => self.call(function, arguments, last),
            Command::Value(term) if last.is_none() => self.term(term),
            Command::Value(_) => Err("can't give argument to a value that is no function".into()),
        }
    }

    fn call(
        &mut self,
        function: &'static Function,
        arguments: &'a [Term],
        last: Option<Value>,
    ) -> Result<Value, String> {
        if let Some(special) = function.special() {
            return self.short_circuit(special, arguments, last);
        }
        let mut values = Vec::with_capacity(arguments.len() + 1);
        for argument in arguments {
            values.push(self.term(argument)?);
        }
        values.extend(last);
        let value = function.call(&values, &mut self.budget)?;
        self.budget.hold(&value)?;
        Ok(value)
    }

    /// `and` and `or`: the first value that decides, and nothing after it is looked at.
    fn short_circuit(
        &mut self,
        special: Special,
        arguments: &'a [Term],
        last: Option<Value>,
    ) -> Result<Value, String> {
        let mut value = Value::Nil;
        for argument in arguments {
            value = self.term(argument)?;
            if value.is_true() == (special == Special::Or) {
                return Ok(value);
            }
        }
        Ok(last.unwrap_or(value))
    }

    fn term(&mut self, term: &'a Term) -> Result<Value, String> {
        let (mut value, chain): (Value, &[String]) = match term {
            Term::Nil => (Value::Nil, &[]),
            Term::Bool(value) => (Value::Bool(*value), &[]),
            Term::Text(text) => (Value::text(text), &[]),
            Term::Number(number) => match number.whole {
                Some(whole) if !number.written_as_float => (Value::Int(whole), &[]),
                _ => (Value::Float(number.float), &[]),
            },
            Term::Field(chain) => {
                let (first, rest) = chain.split_first().ok_or("no field is named")?;
                (self.data.field(first)?, rest)
            }
            Term::Variable(name, chain) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                let found = found.ok_or_else(|| format!("undefined variable: {name}"))?;
                (found.1.clone(), chain)
            }
            Term::Pipeline(pipeline, chain) => (self.pipeline(pipeline)?, chain),
            Term::Call(function) => (self.call(function, &[], None)?, &[]),
        };
        for name in chain {
            value = member(&value, name)?;
        }
        Ok(value)
    }
}

/// As an action prints it.
fn printed(value: &Value) -> String {
    match value {
        Value::Nil => "<no value>".into(),
        value => value.show(),
    }
}
