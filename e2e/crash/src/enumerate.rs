//! Goes through all points of an operation.

use std::fmt;
use std::ops::AddAssign;
use std::panic::resume_unwind;
use std::thread;

use crate::failure::Failure;
use crate::fuse::{Fuse, Kind, Point, When};
use crate::node::{Node, Place};
use crate::operation::{End, Operation};

/// How many points of an operation there are. Every one was died at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Points {
    /// Changes to files, each before and after its effect.
    pub changes: usize,
    /// Requests to the API server, each before and after its effect.
    pub requests: usize,
    /// NVML calls.
    pub nvml: usize,
}

impl AddAssign for Points {
    fn add_assign(&mut self, other: Self) {
        self.changes += other.changes;
        self.requests += other.requests;
        self.nvml += other.nvml;
    }
}

impl Points {
    /// All together.
    pub fn sum(self) -> usize {
        self.changes + self.requests + self.nvml
    }
}

/// Kills the plugin at every point of an operation, one run each, and compares each end with that of an unharmed life.
///
/// A run waits more than it works, so the points are gone through in three series side by side, each in a place of its own.
/// Between two runs it asks whether it is `interrupted`.
pub fn enumerate(
    place: &(dyn Fn() -> Result<Place, Failure> + Sync),
    operation: Operation,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Points, Failure> {
    let series = [Series::Before, Series::After, Series::Nvml];
    let counted: Vec<_> = thread::scope(|scope| {
        let runs = series
            .map(|series| scope.spawn(move || Runs::of(series, place, operation, interrupted)));
        let ends = runs.map(|run| run.join().unwrap_or_else(|panic| resume_unwind(panic)));
        ends.into()
    });
    let mut points = Points::default();
    for counted in counted {
        points += counted?;
    }
    // A tracer or a driver that sees nothing must not pass for a plugin that does nothing.
    if points.changes == 0 || (!operation.nvml().is_empty() && points.nvml == 0) {
        return Err(Failure::NoPoints(operation.name()));
    }
    Ok(points)
}

/// Points that are gone through one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Series {
    /// Before the effect of a change or request.
    Before,
    /// After it.
    After,
    /// At a call of the driver.
    Nvml,
}

/// The runs of one series of an operation.
struct Runs<'a> {
    place: Place,
    operation: Operation,
    unharmed: End,
    interrupted: &'a dyn Fn() -> bool,
}

impl<'a> Runs<'a> {
    fn of(
        series: Series,
        place: &dyn Fn() -> Result<Place, Failure>,
        operation: Operation,
        interrupted: &'a dyn Fn() -> bool,
    ) -> Result<Points, Failure> {
        if series == Series::Nvml && operation.nvml().is_empty() {
            return Ok(Points::default());
        }
        let mut place = place()?;
        let unharmed = attempt(&mut place, operation, None)?.end;
        let mut runs = Self {
            place,
            operation,
            unharmed,
            interrupted,
        };
        match series {
            Series::Before => runs.each(When::Before),
            Series::After => runs.each(When::After),
            Series::Nvml => runs.nvml(),
        }
    }

    fn each(&mut self, when: When) -> Result<Points, Failure> {
        Ok(Points {
            changes: self.all(|n| Point::Nth(Kind::Change, when, n))?,
            requests: self.all(|n| Point::Nth(Kind::Request, when, n))?,
            nvml: 0,
        })
    }

    fn nvml(&mut self) -> Result<Points, Failure> {
        let mut points = Points::default();
        for function in self.operation.nvml() {
            points.nvml += self.all(|n| Point::Nvml(function, n))?;
        }
        Ok(points)
    }

    /// Dies at the first, the second and so on, until there is no such point.
    fn all(&mut self, point: impl Fn(usize) -> Point) -> Result<usize, Failure> {
        let mut n = 1;
        while self.die(point(n))? {
            n += 1;
        }
        Ok(n - 1)
    }

    /// Whether there is such a point. If there is, the plugin died there and all is as it must be.
    fn die(&mut self, point: Point) -> Result<bool, Failure> {
        if (self.interrupted)() {
            return Err(Failure::Interrupted);
        }
        let Attempt { end, killed } = attempt(&mut self.place, self.operation, Some(point))?;
        compare(&self.unharmed, &end).map_err(at(self.operation, killed.as_deref()))?;
        Ok(killed.is_some())
    }
}

/// One run and where it died, if it did.
struct Attempt {
    end: End,
    killed: Option<String>,
}

fn attempt(
    place: &mut Place,
    operation: Operation,
    point: Option<Point>,
) -> Result<Attempt, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::io("start", "the runtime"))?;
    let mut node = Node::new(place, Fuse::new(point))?;
    let outcome = runtime.block_on(operation.run(&mut node));
    let killed = node.was_killed()?;
    drop(node);
    place.driver.state.update(tessera_hw::Node::reset)?;
    let end = outcome.map_err(at(operation, killed.as_deref()))?;
    Ok(Attempt { end, killed })
}

fn at(operation: Operation, killed: Option<&str>) -> impl FnOnce(Failure) -> Failure {
    let at = killed.unwrap_or("no point").to_owned();
    move |source| Failure::At {
        operation: operation.name(),
        at,
        source: Box::new(source),
    }
}

fn compare(without: &End, now: &End) -> Result<(), Failure> {
    let same = |what: &str, without: &dyn fmt::Debug, now: &dyn fmt::Debug| {
        let (without, now) = (format!("{without:#?}"), format!("{now:#?}"));
        match first_difference(&without, &now) {
            None => Ok(()),
            Some((without, now)) => Err(Failure::Differs {
                what: what.to_owned(),
                without,
                now,
            }),
        }
    };
    for file in without.files.keys().chain(now.files.keys()) {
        let lines = |end: &End| {
            end.files
                .get(file)
                .map(|text| text.lines().map(ToOwned::to_owned).collect::<Vec<_>>())
        };
        same(file, &lines(without), &lines(now))?;
    }
    same("an answer to the kubelet", &without.answers, &now.answers)?;
    same("the slices", &without.slices, &now.slices)
}

/// The first lines that differ; an end is an empty line.
fn first_difference(one: &str, other: &str) -> Option<(String, String)> {
    let lines = one.lines().count().max(other.lines().count());
    let padded = |text: &str| {
        text.lines()
            .map(ToOwned::to_owned)
            .chain(std::iter::repeat(String::new()))
            .take(lines)
            .collect::<Vec<_>>()
    };
    padded(one)
        .into_iter()
        .zip(padded(other))
        .find(|(one, other)| one != other)
}
