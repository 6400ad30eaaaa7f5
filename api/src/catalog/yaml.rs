//! YAML as far as a catalog needs it: scalars, lists and mappings, each with its place in the text.
//!
//! A catalog is read from parser events rather than through serde, because only there can tags and
//! anchors be seen and refused, and because serde's messages quote what they object to.

use std::{borrow::Cow, collections::HashSet};

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, StrInput, options};

use super::{CatalogError, Position, Problem};

/// Deepest nesting. The format itself needs four; the rest is for `x-` keys.
const MAX_DEPTH: usize = 16;
/// Most values in all, keys included: 2,000 images with every key and eight mirrors have 50,000.
const MAX_NODES: usize = 100_000;

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node<'t> {
    pub(super) at: Position,
    pub(super) value: Value<'t>,
}

#[derive(Debug)]
pub(super) enum Value<'t> {
    Scalar { text: Cow<'t, str>, plain: bool },
    List(Vec<Node<'t>>),
    Mapping(Vec<Entry<'t>>),
}

/// One key of a mapping and its value.
#[derive(Debug)]
pub(super) struct Entry<'t> {
    pub(super) at: Position,
    pub(super) key: Cow<'t, str>,
    pub(super) value: Node<'t>,
}

impl Node<'_> {
    /// Whether nothing was written: an absent value, `~` or `null`.
    pub(super) fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar { text, plain } => {
                *plain && matches!(&**text, "" | "~" | "null" | "Null" | "NULL")
            }
            Value::List(_) | Value::Mapping(_) => false,
        }
    }
}

/// Reads the one document in `text`; none when there is nothing but comments.
pub(super) fn read(text: &str) -> Result<Option<Node<'_>>, CatalogError> {
    let options = options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        flow_nesting_limit: MAX_DEPTH + 1,
        block_nesting_limit: MAX_DEPTH + 1,
    };
    let mut reader = Reader {
        parser: Parser::new_from_str_with_options(text, options),
        nodes: 0,
        at: Position { line: 1, column: 1 },
    };
    let mut document = None;
    loop {
        match reader.next()? {
            Event::StreamEnd => return Ok(document),
            Event::DocumentStart(..) if document.is_some() => {
                return Err(reader.refuse(Problem::SeveralDocuments));
            }
            Event::DocumentStart(..) => {
                let first = reader.next()?;
                document = Some(reader.node(first, 0)?);
            }
            _ => {}
        }
    }
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    nodes: usize,
    /// Where the latest event began.
    at: Position,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Event<'t>, CatalogError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                self.at = position(&span.start);
                Ok(event)
            }
            Some(Err(error)) => Err(not_yaml(&error)),
            // Only after StreamEnd, where reading stops.
            None => Ok(Event::StreamEnd),
        }
    }

    fn node(&mut self, event: Event<'t>, depth: usize) -> Result<Node<'t>, CatalogError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.refuse(Problem::TooManyValues));
        }
        if depth > MAX_DEPTH {
            return Err(self.refuse(Problem::TooDeep));
        }
        let at = self.at;
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag)
            | Event::SequenceStart(_, anchor, tag)
            | Event::MappingStart(_, anchor, tag) => (*anchor, tag.is_some()),
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                return Err(self.refuse(Problem::Anchor));
            }
            _ => return Err(self.refuse(Problem::NotYaml("a value is missing"))),
        };
        if anchor != 0 {
            return Err(self.refuse(Problem::Anchor));
        }
        if tag {
            return Err(self.refuse(Problem::Tag));
        }
        let value = match event {
            Event::Scalar(text, style, ..) => Value::Scalar {
                text,
                plain: style == ScalarStyle::Plain,
            },
            Event::SequenceStart(..) => self.list(depth + 1)?,
            _ => self.mapping(depth + 1)?,
        };
        Ok(Node { at, value })
    }

    fn list(&mut self, depth: usize) -> Result<Value<'t>, CatalogError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(Value::List(items)),
                event => items.push(self.node(event, depth)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value<'t>, CatalogError> {
        let mut entries: Vec<Entry<'t>> = Vec::new();
        let mut seen = HashSet::new();
        loop {
            let event = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(Value::Mapping(entries));
            }
            let key = self.node(event, depth)?;
            let at = key.at;
            let Value::Scalar { text: key, .. } = key.value else {
                return Err(refuse(at, Problem::KeyIsNoText));
            };
            if !seen.insert(key.clone()) {
                return Err(refuse(at, Problem::DuplicateKey));
            }
            let event = self.next()?;
            let value = self.node(event, depth)?;
            entries.push(Entry { at, key, value });
        }
    }

    fn refuse(&self, problem: Problem) -> CatalogError {
        refuse(self.at, problem)
    }
}

pub(super) fn refuse(at: Position, problem: Problem) -> CatalogError {
    CatalogError::Invalid { at, problem }
}

fn position(mark: &Marker) -> Position {
    Position {
        line: mark.line(),
        column: mark.col() + 1,
    }
}

/// The parser's own messages may quote a character of the text, so only fixed words are passed on.
fn not_yaml(error: &ScanError) -> CatalogError {
    let what = match error.kind() {
        ErrorKind::UnknownAnchor => return refuse(position(error.marker()), Problem::Anchor),
        ErrorKind::UndeclaredTagHandle => return refuse(position(error.marker()), Problem::Tag),
        ErrorKind::RecursionLimitExceeded => {
            return refuse(position(error.marker()), Problem::TooDeep);
        }
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabInPlainScalar => "a tab where spaces are needed",
        ErrorKind::UnclosedQuotedScalar
        | ErrorKind::InvalidQuotedScalarIndent
        | ErrorKind::DocumentIndicatorInQuotedScalar => "a quote is not closed",
        ErrorKind::UnclosedFlowCollection { .. }
        | ErrorKind::MismatchedFlowCollectionEnd { .. }
        | ErrorKind::MisplacedFlowCollectionEnd
        | ErrorKind::UnexpectedEofFlowSequence
        | ErrorKind::UnexpectedEofFlowMapping => "brackets do not match",
        ErrorKind::InvalidIndentation
        | ErrorKind::MappingValueNotAllowed
        | ErrorKind::MappingKeyNotAllowed
        | ErrorKind::BlockSequenceEntryNotAllowed
        | ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::ExpectedBlockSequenceEntry => "the indentation does not fit the lines before",
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => {
            "a key is not followed by a colon"
        }
        ErrorKind::UnexpectedEof
        | ErrorKind::UnexpectedEofBlockMapping
        | ErrorKind::UnexpectedEofBlockSequence => "the text ends too early",
        ErrorKind::UnexpectedCharacter { .. } => "a character is not allowed here",
        _ => "the parser does not understand it",
    };
    refuse(position(error.marker()), Problem::NotYaml(what))
}
