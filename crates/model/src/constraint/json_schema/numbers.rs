//! Numbers as JSON writes them, between bounds. Written without more digits than a reader of JSON keeps.

use serde_json::{Map, Value};

use crate::constraint::expression::Expression;

/// Digits of an unbounded whole part at most, and of a fraction.
const MOST_DIGITS: usize = 16;

/// Whole bounds, both included where they are not marked.
#[derive(Clone, Copy, Default)]
struct Bounds {
    least: Option<(i128, IsExclusive)>,
    most: Option<(i128, IsExclusive)>,
}

type IsExclusive = bool;

/// An integer within the schema's bounds.
///
/// # Errors
/// A sentence on a bound or multiple that cannot be followed.
pub(super) fn integer(schema: &Map<String, Value>) -> Result<Expression, String> {
    let bounds = Bounds::of(schema, true)?;
    let least = bounds.least.map(|(bound, is_exclusive)| bound + i128::from(is_exclusive));
    let most = bounds.most.map(|(bound, is_exclusive)| bound - i128::from(is_exclusive));
    Ok(signed(least, most))
}

/// A number within the schema's bounds.
///
/// # Errors
/// As [`integer`]; bounds that are no whole numbers.
pub(super) fn number(schema: &Map<String, Value>) -> Result<Expression, String> {
    let bounds = Bounds::of(schema, false)?;
    let fraction =
        || Expression::Sequence(vec![Expression::text("."), Expression::digits(1, MOST_DIGITS - 1)]);
    if bounds.least.is_none() && bounds.most.is_none() {
        let exponent = Expression::Sequence(vec![
            Expression::one_of("eE"),
            Expression::optional(Expression::one_of("+-")),
            Expression::digits(1, 2),
        ]);
        return Ok(Expression::Sequence(vec![
            Expression::optional(Expression::text("-")),
            whole(0, None),
            Expression::optional(fraction()),
            Expression::optional(exponent),
        ]));
    }
    let (least, most) = (bounds.least, bounds.most);
    let magnitudes = |least: Option<(i128, IsExclusive)>, most: Option<(i128, IsExclusive)>| {
        // Below zero there is no magnitude.
        let (first, is_open) = least.filter(|(bound, _)| *bound >= 0).unwrap_or((0, false));
        let end = most.map(|(bound, is_exclusive)| bound - i128::from(is_exclusive));
        let mut choices = vec![whole(first + i128::from(is_open), end)];
        // n.f lies between n and n + 1.
        let last = most.map(|(bound, _)| bound - 1);
        choices.push(Expression::Sequence(vec![whole(first + i128::from(is_open), last), fraction()]));
        if is_open && last.is_none_or(|last| first <= last) {
            let above = [".", "0"].map(Expression::text);
            let [point, zero] = above;
            let zeros = Expression::repeat(zero, 0, MOST_DIGITS / 2 - 1);
            let digits = Expression::digits(0, MOST_DIGITS / 2 - 1);
            let digit = Expression::range('1', '9');
            choices.push(Expression::Sequence(vec![whole(first, Some(first)), point, zeros, digit, digits]));
        }
        Expression::Choice(choices)
    };
    let mut choices = Vec::new();
    if most.is_none_or(|(bound, is_exclusive)| bound - i128::from(is_exclusive) >= 0) {
        choices.push(magnitudes(least, most));
    }
    if least.is_none_or(|(bound, _)| bound < 0) {
        let mirrored =
            |bound: Option<(i128, IsExclusive)>| bound.map(|(bound, is_exclusive)| (-bound, is_exclusive));
        choices.push(Expression::Sequence(vec![
            Expression::text("-"),
            magnitudes(mirrored(most), mirrored(least)),
        ]));
    }
    Ok(Expression::Choice(choices))
}

impl Bounds {
    fn of(schema: &Map<String, Value>, rounds: bool) -> Result<Self, String> {
        if let Some(multiple) = schema.get("multipleOf")
            && !(rounds && multiple.as_f64() == Some(1.0))
        {
            return Err(format!("`multipleOf`: {multiple} is not supported"));
        }
        let bound = |name: &str, is_exclusive: bool| -> Result<Option<(i128, IsExclusive)>, String> {
            let Some(value) = schema.get(name) else { return Ok(None) };
            if let Some(whole) = value.as_i64() {
                return Ok(Some((whole.into(), is_exclusive)));
            }
            let Some(number) = value.as_f64() else {
                return Err(format!("`{name}`: expected a number, found {value}"));
            };
            if number.abs() > 9e15 {
                return Err(format!("`{name}`: {value} is too large to be followed"));
            }
            if number.fract() == 0.0 {
                return Ok(Some((number as i128, is_exclusive)));
            }
            if !rounds {
                return Err(format!("`{name}`: {value} is not supported: bounds of numbers must be whole"));
            }
            let rounded = if name.ends_with("inimum") { number.ceil() } else { number.floor() };
            Ok(Some((rounded as i128, false)))
        };
        let least = [bound("minimum", false)?, bound("exclusiveMinimum", true)?];
        let most = [bound("maximum", false)?, bound("exclusiveMaximum", true)?];
        Ok(Self {
            least: least.into_iter().flatten().max(),
            most: most.into_iter().flatten().min_by_key(|(bound, is_exclusive)| (*bound, !is_exclusive)),
        })
    }
}

/// Whole numbers of both signs.
fn signed(least: Option<i128>, most: Option<i128>) -> Expression {
    let mut choices = Vec::new();
    if most.is_none_or(|most| most >= 0) {
        choices.push(whole(least.unwrap_or(0).max(0), most));
    }
    if least.is_none_or(|least| least < 0) {
        let nearest = most.map_or(1, |most| (-most).max(1));
        let farthest = least.map(|least| -least);
        choices.push(Expression::Sequence(vec![Expression::text("-"), whole(nearest, farthest)]));
    }
    Expression::Choice(choices)
}

/// Decimal digits of the numbers from `least`, 0 or more, to `most`; nothing where there is none.
fn whole(least: i128, most: Option<i128>) -> Expression {
    let digits = |number: i128| number.to_string().len();
    let mut choices = Vec::new();
    let highest = most.unwrap_or_else(|| 10_i128.pow(digits(least) as u32) - 1);
    for length in digits(least)..=digits(highest.max(0)) {
        let shortest = if length == 1 { 0 } else { 10_i128.pow(length as u32 - 1) };
        let (first, last) = (least.max(shortest), highest.min(10_i128.pow(length as u32) - 1));
        if first <= last {
            choices.push(between(first.to_string().as_bytes(), last.to_string().as_bytes()));
        }
    }
    if most.is_none() {
        let longest = MOST_DIGITS.max(digits(least) + 1);
        let more = Expression::digits(digits(least), longest - 1);
        choices.push(Expression::Sequence(vec![Expression::range('1', '9'), more]));
    }
    Expression::Choice(choices)
}

/// Texts of digits between two of the same length.
fn between(first: &[u8], last: &[u8]) -> Expression {
    let (Some((&low, first)), Some((&high, last))) = (first.split_first(), last.split_first()) else {
        return Expression::empty();
    };
    let behind = |digit: (u8, u8), rest: Expression| {
        Expression::Sequence(vec![Expression::range(digit.0.into(), digit.1.into()), rest])
    };
    if low == high {
        return behind((low, low), between(first, last));
    }
    let (lows, highs) = (vec![b'0'; first.len()], vec![b'9'; first.len()]);
    let mut choices = Vec::new();
    let whole = (low + u8::from(first != lows), high - u8::from(last != highs));
    if first != lows {
        choices.push(behind((low, low), between(first, &highs)));
    }
    if whole.0 <= whole.1 {
        choices.push(behind(whole, Expression::digits(first.len(), first.len())));
    }
    if last != highs {
        choices.push(behind((high, high), between(&lows, last)));
    }
    Expression::Choice(choices)
}
