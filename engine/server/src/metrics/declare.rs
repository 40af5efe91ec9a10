//! How a metric is declared: once, in a row of a table. The row gives a field of a snapshot its name, type, labels and
//! help text in `/metrics`, its name in the answer to STATUS, and the way in which shards' values are combined.
//! docs/METRICS.md is written from the same rows (see [`super::families`]).

use serde_json::Value;

use super::latency::Latency;

/// The type of a metric, in Prometheus' sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, from 0 at the start of the server.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Buckets of observations.
    Histogram,
}

impl Kind {
    /// The name in one lower-case word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric of `/metrics`: everything but its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: Vec<&'static str>,
    /// What it measures, as one or two sentences.
    pub help: &'static str,
}

/// A value of a metric.
#[derive(Clone, Copy, Debug)]
pub enum Sample<'a> {
    /// Of a counter or a gauge.
    Number(f64),
    /// Of a histogram.
    Observations(&'a Latency),
}

/// Receives the values of a metric, each with the values of those labels that the reading adds.
pub type Emit<'a> = dyn FnMut(&[&str], Sample<'_>) + 'a;

/// The type of a field that is exported.
pub trait Reading {
    /// The names of the labels that its values have, beside those of the snapshot.
    const LABELS: &'static [&'static str] = &[];

    /// Emits its values.
    fn export(&self, emit: &mut Emit<'_>);

    /// Returns its value as it appears in STATUS.
    fn document(&self) -> Value;
}

impl Reading for u64 {
    fn export(&self, emit: &mut Emit<'_>) {
        emit(&[], Sample::Number(*self as f64));
    }

    fn document(&self) -> Value {
        (*self).into()
    }
}

impl Reading for f64 {
    fn export(&self, emit: &mut Emit<'_>) {
        emit(&[], Sample::Number(*self));
    }

    fn document(&self) -> Value {
        (*self).into()
    }
}

impl Reading for bool {
    fn export(&self, emit: &mut Emit<'_>) {
        emit(&[], Sample::Number(f64::from(u8::from(*self))));
    }

    fn document(&self) -> Value {
        (*self).into()
    }
}

impl Reading for Latency {
    fn export(&self, emit: &mut Emit<'_>) {
        emit(&[], Sample::Observations(self));
    }

    fn document(&self) -> Value {
        self.quantiles()
    }
}

/// A reading whose total over shards is a sum.
pub trait Additive {
    /// Adds another shard's value.
    fn add(&mut self, other: &Self);
}

impl Additive for u64 {
    fn add(&mut self, other: &Self) {
        *self += other;
    }
}

impl Additive for Latency {
    fn add(&mut self, other: &Self) {
        self.merge(other);
    }
}

/// The ways to combine two shards' values of a figure.
pub mod combine {
    use super::Additive;

    /// Adds them.
    pub fn sum<T: Additive>(total: &mut T, other: &T) {
        total.add(other);
    }

    /// Takes the greater one.
    pub fn max<T: PartialOrd + Clone>(total: &mut T, other: &T) {
        if *other > *total {
            total.clone_from(other);
        }
    }

    /// Takes the lesser one.
    pub fn min<T: PartialOrd + Clone>(total: &mut T, other: &T) {
        if *other < *total {
            total.clone_from(other);
        }
    }

    /// Keeps the first: the figure belongs to one shard.
    pub fn never<T>(_: &mut T, _: &T) {}
}

/// What a snapshot is about.
pub trait Subject: Sized + 'static {
    /// The name of the label that names it; `None` if there is only one.
    const LABEL: Option<&'static str>;

    /// All its rows.
    const FIGURES: &'static [Figure<Self>];

    /// Returns the value of its label.
    fn label(&self) -> String;

    /// Combines all values with those of another shard.
    fn combine(&mut self, other: &Self) {
        for figure in Self::FIGURES {
            (figure.combine)(self, other);
        }
    }

    /// Adds to a row of STATUS what belongs there.
    fn describe(&self, row: &mut serde_json::Map<String, Value>) {
        for member in Self::FIGURES
            .iter()
            .filter_map(|figure| figure.status.as_ref())
        {
            row.insert(member.name.to_owned(), (member.value)(self));
        }
    }

    /// Returns its metrics.
    fn families() -> impl Iterator<Item = (Family, &'static Metric<Self>)> {
        Self::FIGURES.iter().filter_map(|figure| {
            let metric = figure.metric.as_ref()?;
            let family = Family {
                name: metric.name,
                kind: metric.kind,
                labels: Self::LABEL.iter().chain(metric.labels).copied().collect(),
                help: figure.help,
            };
            Some((family, metric))
        })
    }
}

/// One row of a table: a field of the snapshot `S`.
pub struct Figure<S: 'static> {
    /// What it measures.
    pub help: &'static str,
    /// Its metric, if it has one.
    pub metric: Option<Metric<S>>,
    /// Its name and value in STATUS, if it is there.
    pub status: Option<Member<S>>,
    /// Combines two shards' values.
    pub combine: fn(&mut S, &S),
}

/// How a field appears in STATUS.
pub struct Member<S: 'static> {
    /// The name of the member.
    pub name: &'static str,
    /// Returns its value.
    pub value: fn(&S) -> Value,
}

/// How a field becomes a metric.
pub struct Metric<S: 'static> {
    /// The metric's name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its labels beside that of the snapshot.
    pub labels: &'static [&'static str],
    /// What numbers are divided by to have the unit of the metric.
    pub divisor: f64,
    /// Emits the field's values.
    pub export: fn(&S, &mut Emit<'_>),
}

/// Declares a snapshot and its table. A row is
/// `field: Type = combine [Kind "metric" per divisor] ["status" = value] "help";`, where either pair of brackets may be
/// empty, `per` and `=` may be left out, and `combine` names a function of [`combine`].
macro_rules! figures {
    (
        $(#[$about:meta])*
        pub struct $Name:ident labelled $label:expr, $value:expr;
        { $( $(#[$own_about:meta])* $own:ident: $Own:ty, )* }
        $( $field:ident: $Type:ty = $combine:ident
           [$( $kind:ident $metric:literal $(per $divisor:literal)? )?]
           [$( $status:literal $(= $document:expr)? )?]
           $help:literal; )*
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default)]
        pub struct $Name {
            $( $(#[$own_about])* pub $own: $Own, )*
            $( #[doc = $help] pub $field: $Type, )*
        }

        impl $crate::metrics::declare::Subject for $Name {
            const LABEL: Option<&'static str> = $label;

            const FIGURES: &'static [$crate::metrics::declare::Figure<Self>] = &[
                $( $crate::metrics::declare::Figure {
                    help: $help,
                    metric: figures!(@metric $field: $Type, $( $kind $metric $(per $divisor)? )?),
                    status: figures!(@status $field: $Type, $( $status $(= $document)? )?),
                    combine: |total, other| {
                        $crate::metrics::declare::combine::$combine(&mut total.$field, &other.$field);
                    },
                }, )*
            ];

            fn label(&self) -> String {
                let value: fn(&Self) -> String = $value;
                value(self)
            }
        }
    };
    (@metric $field:ident: $Type:ty,) => { None };
    (@metric $field:ident: $Type:ty, $kind:ident $metric:literal) => {
        figures!(@metric $field: $Type, $kind $metric per 1.0)
    };
    (@metric $field:ident: $Type:ty, $kind:ident $metric:literal per $divisor:literal) => {
        Some($crate::metrics::declare::Metric {
            name: $metric,
            kind: $crate::metrics::declare::Kind::$kind,
            labels: <$Type as $crate::metrics::declare::Reading>::LABELS,
            divisor: $divisor,
            export: |snapshot, emit| {
                $crate::metrics::declare::Reading::export(&snapshot.$field, emit);
            },
        })
    };
    (@status $field:ident: $Type:ty,) => { None };
    (@status $field:ident: $Type:ty, $status:literal) => {
        Some($crate::metrics::declare::Member {
            name: $status,
            value: |snapshot| $crate::metrics::declare::Reading::document(&snapshot.$field),
        })
    };
    (@status $field:ident: $Type:ty, $status:literal = $document:expr) => {
        Some($crate::metrics::declare::Member {
            name: $status,
            value: |snapshot| {
                let document: fn($Type) -> serde_json::Value = $document;
                document(snapshot.$field)
            },
        })
    };
}

pub(crate) use figures;
