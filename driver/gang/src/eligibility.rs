//! Which nodes a gang's pods may be put on: selectors and tolerations, as Kubernetes reads them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::intern::Interner;
use crate::names::NodeName;
use crate::node::{Taint, TaintEffect};

/// What the pods of a gang say about nodes. The default admits every node without taints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Eligibility {
    /// Labels that a node must have (`nodeSelector`).
    pub labels: BTreeMap<String, String>,
    /// Alternatives of which one must hold (`requiredDuringSchedulingIgnoredDuringExecution`); none
    /// if the pods have no such affinity.
    pub terms: Vec<Term>,
    /// The taints that the pods tolerate.
    pub tolerations: Vec<Toleration>,
}

/// Requirements that must hold together. One without requirements admits no node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Term(pub Vec<Requirement>);

/// A requirement on a label or on the node's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// What is looked at.
    pub key: Key,
    /// What must hold of it.
    pub operator: Operator,
}

/// What a requirement looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A label (`matchExpressions`).
    Label(String),
    /// The node's name (`matchFields` on `metadata.name`, the only field that there is).
    Name,
}

/// What a requirement wants of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// It is one of these.
    In(Vec<String>),
    /// It is none of these, or there is no value.
    NotIn(Vec<String>),
    /// There is a value.
    Exists,
    /// There is none.
    DoesNotExist,
    /// It is a whole number above this.
    Gt(i64),
    /// It is a whole number below this.
    Lt(i64),
}

/// A taint that pods tolerate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Toleration {
    /// The taint's key; none for any.
    pub key: Option<String>,
    /// The taint's value; none for any (`Exists`).
    pub value: Option<String>,
    /// The taint's effect; none for any.
    pub effect: Option<TaintEffect>,
}

impl Toleration {
    fn tolerates(&self, taint: &Taint) -> bool {
        self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self
                .value
                .as_ref()
                .is_none_or(|value| *value == taint.value)
            && self.effect.is_none_or(|effect| effect == taint.effect)
    }
}

/// Labels of a node by their numbers, sorted by key.
pub(crate) type Labels = Box<[(u32, u32)]>;

/// Labels' texts and numbers.
pub(crate) type Strings = Interner<Arc<str>>;

/// An [`Eligibility`] whose texts are numbers.
#[derive(Debug)]
pub(crate) struct Compiled {
    labels: Vec<(u32, u32)>,
    terms: Vec<Vec<Test>>,
    tolerations: Vec<Toleration>,
    /// What to give back.
    acquired: Vec<u32>,
}

#[derive(Debug)]
enum Test {
    In(u32, Vec<u32>),
    NotIn(u32, Vec<u32>),
    Exists(u32),
    DoesNotExist(u32),
    Gt(u32, i64),
    Lt(u32, i64),
    Name(Operator),
}

/// What speaks against a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Objection {
    Selector,
    Taint,
}

impl Compiled {
    pub(crate) fn new(eligibility: &Eligibility, strings: &mut Strings) -> Self {
        let mut acquired = Vec::new();
        let mut number = |text: &str| {
            let number = strings.acquire(text);
            acquired.push(number);
            number
        };
        let labels = eligibility.labels.iter();
        let labels = labels
            .map(|(key, value)| (number(key), number(value)))
            .collect();
        let terms = eligibility.terms.iter();
        let terms = terms
            .map(|Term(requirements)| {
                let tests = requirements.iter();
                tests.map(|wanted| Test::new(wanted, &mut number)).collect()
            })
            .collect();
        Self {
            labels,
            terms,
            tolerations: eligibility.tolerations.clone(),
            acquired,
        }
    }

    pub(crate) fn release(self, strings: &mut Strings) {
        for number in self.acquired {
            strings.release(number);
        }
    }

    /// What speaks against a node, if anything does.
    pub(crate) fn objection(
        &self,
        name: &NodeName,
        labels: &[(u32, u32)],
        taints: &[Taint],
        strings: &Strings,
    ) -> Option<Objection> {
        let selected = self
            .labels
            .iter()
            .all(|(key, value)| value_of(labels, *key) == Some(*value))
            && (self.terms.is_empty()
                || self.terms.iter().any(|tests| {
                    let mut held = tests.iter().map(|test| test.holds(name, labels, strings));
                    !tests.is_empty() && held.all(|holds| holds)
                }));
        if !selected {
            return Some(Objection::Selector);
        }
        let harmless = |taint: &Taint| {
            taint.effect == TaintEffect::PreferNoSchedule
                || self
                    .tolerations
                    .iter()
                    .any(|toleration| toleration.tolerates(taint))
        };
        (!taints.iter().all(harmless)).then_some(Objection::Taint)
    }
}

impl Test {
    fn new(wanted: &Requirement, number: &mut impl FnMut(&str) -> u32) -> Self {
        let Key::Label(key) = &wanted.key else {
            return Self::Name(wanted.operator.clone());
        };
        let key = number(key);
        let mut numbers = |values: &[String]| values.iter().map(|value| number(value)).collect();
        match &wanted.operator {
            Operator::In(values) => Self::In(key, numbers(values)),
            Operator::NotIn(values) => Self::NotIn(key, numbers(values)),
            Operator::Exists => Self::Exists(key),
            Operator::DoesNotExist => Self::DoesNotExist(key),
            Operator::Gt(bound) => Self::Gt(key, *bound),
            Operator::Lt(bound) => Self::Lt(key, *bound),
        }
    }

    fn holds(&self, name: &NodeName, labels: &[(u32, u32)], strings: &Strings) -> bool {
        let number = |key| -> Option<i64> { strings.key(value_of(labels, key)?).parse().ok() };
        match self {
            Self::In(key, values) => value_of(labels, *key).is_some_and(|v| values.contains(&v)),
            Self::NotIn(key, values) => value_of(labels, *key).is_none_or(|v| !values.contains(&v)),
            Self::Exists(key) => value_of(labels, *key).is_some(),
            Self::DoesNotExist(key) => value_of(labels, *key).is_none(),
            Self::Gt(key, bound) => number(*key).is_some_and(|value| value > *bound),
            Self::Lt(key, bound) => number(*key).is_some_and(|value| value < *bound),
            Self::Name(operator) => operator.holds_of(name.as_str()),
        }
    }
}

impl Operator {
    /// Whether it holds of a value that is there.
    fn holds_of(&self, text: &str) -> bool {
        match self {
            Self::In(values) => values.iter().any(|value| value == text),
            Self::NotIn(values) => values.iter().all(|value| value != text),
            Self::Exists => true,
            Self::DoesNotExist => false,
            Self::Gt(bound) => text.parse().is_ok_and(|value: i64| value > *bound),
            Self::Lt(bound) => text.parse().is_ok_and(|value: i64| value < *bound),
        }
    }
}

fn value_of(labels: &[(u32, u32)], key: u32) -> Option<u32> {
    let at = labels.binary_search_by_key(&key, |(key, _)| *key).ok()?;
    Some(labels[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: [(&str, &str); 3] = [("zone", "a"), ("gen", "5"), ("pool", "gpu")];

    fn admits(eligibility: &Eligibility, taints: &[Taint]) -> bool {
        let mut strings = Strings::new();
        let mut labels: Vec<(u32, u32)> = LABELS
            .iter()
            .map(|(key, value)| (strings.acquire(*key), strings.acquire(*value)))
            .collect();
        labels.sort_unstable();
        let compiled = Compiled::new(eligibility, &mut strings);
        let objection = compiled.objection(&"node-1".into(), &labels, taints, &strings);
        compiled.release(&mut strings);
        assert_eq!(
            strings.used(),
            6,
            "nothing is kept of a selector that is gone"
        );
        objection.is_none()
    }

    fn one(key: &str, operator: Operator) -> Eligibility {
        let key = if key == "metadata.name" {
            Key::Name
        } else {
            Key::Label(key.to_owned())
        };
        Eligibility {
            terms: vec![Term(vec![Requirement { key, operator }])],
            ..Eligibility::default()
        }
    }

    #[test]
    fn requirements_hold_as_kubernetes_reads_them() {
        let of = |values: &[&str]| values.iter().map(ToString::to_string).collect();
        for (key, operator, holds) in [
            ("zone", Operator::In(of(&["b", "a"])), true),
            ("zone", Operator::In(of(&["b"])), false),
            ("rack", Operator::In(of(&["b"])), false),
            ("zone", Operator::NotIn(of(&["b"])), true),
            ("zone", Operator::NotIn(of(&["a"])), false),
            ("rack", Operator::NotIn(of(&["b"])), true),
            ("zone", Operator::Exists, true),
            ("rack", Operator::Exists, false),
            ("rack", Operator::DoesNotExist, true),
            ("zone", Operator::DoesNotExist, false),
            ("gen", Operator::Gt(4), true),
            ("gen", Operator::Gt(5), false),
            ("gen", Operator::Lt(6), true),
            ("zone", Operator::Lt(6), false),
            ("metadata.name", Operator::In(of(&["node-1"])), true),
            ("metadata.name", Operator::NotIn(of(&["node-1"])), false),
        ] {
            let eligibility = one(key, operator.clone());
            assert_eq!(admits(&eligibility, &[]), holds, "{key} {operator:?}");
        }
    }

    #[test]
    fn terms_are_alternatives_and_an_empty_one_admits_nothing() {
        let mut two = one("rack", Operator::Exists);
        two.terms.extend(one("zone", Operator::Exists).terms);
        assert!(admits(&two, &[]));
        let empty = Eligibility {
            terms: vec![Term::default()],
            ..Eligibility::default()
        };
        assert!(!admits(&empty, &[]));
        let mut both = one("zone", Operator::Exists);
        both.labels.insert("pool".to_owned(), "cpu".to_owned());
        assert!(
            !admits(&both, &[]),
            "the selector must hold beside the affinity"
        );
    }

    #[test]
    fn taints_keep_away_whoever_does_not_tolerate_them() {
        let taint = |effect| Taint {
            key: "nvidia.com/gpu".to_owned(),
            value: "true".to_owned(),
            effect,
        };
        let tolerates = |key: Option<&str>, value: Option<&str>, effect| Eligibility {
            tolerations: vec![Toleration {
                key: key.map(str::to_owned),
                value: value.map(str::to_owned),
                effect,
            }],
            ..Eligibility::default()
        };
        let hard = [taint(TaintEffect::NoSchedule)];
        assert!(!admits(&Eligibility::default(), &hard));
        assert!(admits(
            &Eligibility::default(),
            &[taint(TaintEffect::PreferNoSchedule)]
        ));
        assert!(admits(&tolerates(None, None, None), &hard));
        assert!(admits(
            &tolerates(Some("nvidia.com/gpu"), Some("true"), None),
            &hard
        ));
        assert!(!admits(
            &tolerates(Some("nvidia.com/gpu"), Some("no"), None),
            &hard
        ));
        assert!(!admits(&tolerates(Some("other"), None, None), &hard));
        let evicting = Some(TaintEffect::NoExecute);
        assert!(!admits(
            &tolerates(Some("nvidia.com/gpu"), None, evicting),
            &hard
        ));
    }
}
