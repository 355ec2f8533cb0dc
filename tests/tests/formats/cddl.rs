//! As much of CDDL (RFC 8610) as `docs/formats.md` uses: the rules are read from the document, and values matched against them.

use std::collections::BTreeMap;

use ciborium::Value;

/// The rules of a document, by name.
pub(crate) struct Rules(BTreeMap<String, Type>);

#[derive(Clone, Debug)]
enum Type {
    /// `a / b`
    Choice(Vec<Type>),
    /// A rule, or a type of the prelude.
    Name(String),
    Number(i128),
    Text(String),
    Array(Vec<Member>),
    Map(Vec<Member>),
    /// `#6.N(type)`
    Tag(u64, Box<Type>),
    /// `type .size bytes`
    Size(Box<Type>, usize),
    /// `bstr .cbor type`
    Cbor(Box<Type>),
}

#[derive(Clone, Debug)]
struct Member {
    least: usize,
    most: usize,
    /// The label of an item, or the key of an entry.
    key: Option<Key>,
    content: Type,
}

#[derive(Clone, Debug)]
enum Key {
    Named(String),
    Typed(Type),
}

impl Rules {
    /// The rules of all `cddl` blocks of a document.
    pub(crate) fn of(document: &str) -> Rules {
        let blocks = document.split("```cddl\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        let tokens = tokens(&blocks.collect::<Vec<_>>().join("\n"));
        let (mut parser, mut rules) = (Parser { tokens: &tokens, at: 0 }, BTreeMap::new());
        while let Some(name) = parser.next() {
            parser.expect("=");
            let before = rules.insert(name.to_owned(), parser.choice());
            assert!(before.is_none(), "there are two rules `{name}`");
        }
        Rules(rules)
    }

    /// The names of all rules.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Checks that encoded bytes are one value that a rule describes.
    pub(crate) fn check(&self, rule: &str, bytes: &[u8]) -> Value {
        let value = decode(bytes).unwrap_or_else(|problem| panic!("{rule}: {problem}: {bytes:02x?}"));
        let fits = self.fits(&Type::Name(rule.to_owned()), &value);
        fits.unwrap_or_else(|problem| panic!("{rule}: {problem}\nin {value:?}"));
        value
    }

    fn fits(&self, kind: &Type, value: &Value) -> Result<(), String> {
        let unlike = || Err(format!("{value:?} is no {kind:?}"));
        match (kind, value) {
            (Type::Choice(kinds), _) => {
                let problems: Vec<_> = kinds.iter().map_while(|kind| self.fits(kind, value).err()).collect();
                if problems.len() < kinds.len() { Ok(()) } else { Err(problems.join("; nor: ")) }
            }
            (Type::Name(name), _) => match self.0.get(name) {
                Some(kind) => self.fits(kind, value).map_err(|problem| format!("{name}: {problem}")),
                None if prelude(name, value) => Ok(()),
                None => unlike(),
            },
            (Type::Number(number), Value::Integer(found)) if i128::from(*found) == *number => Ok(()),
            (Type::Text(text), Value::Text(found)) if text == found => Ok(()),
            (Type::Array(members), Value::Array(items)) => self.fits_array(members, items),
            (Type::Map(members), Value::Map(entries)) => self.fits_map(members, entries),
            (Type::Tag(tag, kind), Value::Tag(found, content)) if tag == found => self.fits(kind, content),
            (Type::Size(kind, size), Value::Bytes(bytes)) if bytes.len() == *size => self.fits(kind, value),
            (Type::Cbor(kind), Value::Bytes(bytes)) => self.fits(kind, &decode(bytes)?),
            _ => unlike(),
        }
    }

    fn fits_array(&self, members: &[Member], items: &[Value]) -> Result<(), String> {
        let mut at = 0;
        for member in members {
            let mut count = 0;
            while count < member.most && at < items.len() {
                match self.fits(&member.content, &items[at]) {
                    Ok(()) => (count, at) = (count + 1, at + 1),
                    Err(_) if count >= member.least => break,
                    Err(problem) => return Err(format!("[{at}]: {problem}")),
                }
            }
            if count < member.least {
                return Err(format!("[{at}]: {:?} is missing", member.content));
            }
        }
        if at == items.len() { Ok(()) } else { Err(format!("[{at}]: {:?} is too much", items[at])) }
    }

    fn fits_map(&self, members: &[Member], entries: &[(Value, Value)]) -> Result<(), String> {
        let takes = |member: &Member, key: &Value| match &member.key {
            Some(Key::Named(name)) => key.as_text() == Some(name),
            Some(Key::Typed(kind)) => self.fits(kind, key).is_ok(),
            None => false,
        };
        let mut counts = vec![0; members.len()];
        for (key, value) in entries {
            let Some(place) = members.iter().position(|member| takes(member, key)) else {
                return Err(format!("the key {key:?} is not described"));
            };
            counts[place] += 1;
            self.fits(&members[place].content, value).map_err(|problem| format!("{key:?}: {problem}"))?;
        }
        match members.iter().zip(counts).find(|(member, count)| !(member.least..=member.most).contains(count)) {
            Some((member, count)) => Err(format!("{count} of {:?}", member.key)),
            None => Ok(()),
        }
    }
}

fn prelude(name: &str, value: &Value) -> bool {
    match name {
        "any" => true,
        "uint" => value.as_integer().is_some_and(|number| i128::from(number) >= 0),
        "int" => value.is_integer(),
        "float" => value.is_float(),
        "bool" => value.is_bool(),
        "null" => value.is_null(),
        "tstr" => value.is_text(),
        "bstr" => value.is_bytes(),
        _ => panic!("there is no rule `{name}`"),
    }
}

/// One whole value.
fn decode(mut bytes: &[u8]) -> Result<Value, String> {
    let value = ciborium::from_reader(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.is_empty() { Ok(value) } else { Err(format!("{} bytes follow it", bytes.len())) }
}

fn tokens(text: &str) -> Vec<String> {
    let text: String = text.lines().map(|line| line.split(';').next().unwrap().to_owned() + "\n").collect();
    let characters: Vec<char> = text.chars().collect();
    let (mut tokens, mut at) = (Vec::new(), 0);
    while at < characters.len() {
        let start = at;
        let first = characters[at];
        at += 1;
        if first.is_whitespace() {
            continue;
        }
        if first == '"' {
            at += characters[at..].iter().position(|it| *it == '"').unwrap() + 1;
        } else if first == '=' && characters.get(at) == Some(&'>') {
            at += 1;
        } else if first.is_alphanumeric() || matches!(first, '.' | '#' | '_') {
            let belongs = |it: &char| it.is_alphanumeric() || matches!(it, '.' | '-' | '_');
            at += characters[at..].iter().take_while(|it| belongs(it)).count();
        }
        tokens.push(characters[start..at].iter().collect());
    }
    tokens
}

struct Parser<'a> {
    tokens: &'a [String],
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self, ahead: usize) -> &'a str {
        self.tokens.get(self.at + ahead).map_or("", |token| token)
    }

    fn next(&mut self) -> Option<&'a str> {
        let token = self.tokens.get(self.at)?;
        self.at += 1;
        Some(token)
    }

    fn takes(&mut self, token: &str) -> bool {
        let found = self.peek(0) == token;
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, token: &str) {
        assert!(
            self.takes(token),
            "`{token}` belongs where `{}` stands: {:?}",
            self.peek(0),
            self.tokens.get(self.at..)
        );
    }

    fn choice(&mut self) -> Type {
        let mut kinds = vec![self.controlled()];
        while self.takes("/") {
            kinds.push(self.controlled());
        }
        if kinds.len() == 1 { kinds.remove(0) } else { Type::Choice(kinds) }
    }

    fn controlled(&mut self) -> Type {
        let kind = self.simple();
        if self.takes(".size") {
            Type::Size(Box::new(kind), self.next().unwrap().parse().unwrap())
        } else if self.takes(".cbor") {
            Type::Cbor(Box::new(self.simple()))
        } else {
            kind
        }
    }

    fn simple(&mut self) -> Type {
        let token = self.next().expect("a type");
        match token {
            "[" => Type::Array(self.members("]")),
            "{" => Type::Map(self.members("}")),
            "(" => {
                let kind = self.choice();
                self.expect(")");
                kind
            }
            _ if token.starts_with('"') => Type::Text(token.trim_matches('"').to_owned()),
            _ if token.starts_with("#6.") => {
                self.expect("(");
                let kind = self.choice();
                self.expect(")");
                Type::Tag(token[3..].parse().unwrap(), Box::new(kind))
            }
            _ => token.parse().map_or_else(|_| Type::Name(token.to_owned()), Type::Number),
        }
    }

    fn members(&mut self, end: &str) -> Vec<Member> {
        let mut members = Vec::new();
        while !self.takes(end) {
            let (least, most) = match self.peek(0) {
                "*" => (0, usize::MAX),
                "+" => (1, usize::MAX),
                "?" => (0, 1),
                _ => (1, 1),
            };
            self.at += usize::from((least, most) != (1, 1));
            let key = if self.peek(1) == ":" {
                let name = self.next().unwrap().trim_matches('"').to_owned();
                self.expect(":");
                Some(Key::Named(name))
            } else {
                None
            };
            let content = self.choice();
            let member = if self.takes("=>") {
                Member { least, most, key: Some(Key::Typed(content)), content: self.choice() }
            } else {
                Member { least, most, key, content }
            };
            members.push(member);
            self.takes(",");
        }
        members
    }
}
