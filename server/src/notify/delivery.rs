//! What happens to the claimed deliveries of one channel: muted, put off, sent one by one, or merged into a digest.
//! Pure: the network and the time are the caller's.

use sha2::{Digest, Sha256};

use super::channel::Verdict;
use super::text::clean;
use crate::model::channel::{Channel, Delivery, DeliveryState};
use crate::model::incident::{Incident, Transition};
use crate::model::rule::Rule;

/// A delivery is given up this long after it was made: an older message helps nobody.
const GIVE_UP_MS: i64 = 24 * 3_600_000;
/// First wait after a failure; doubles.
const BACK_OFF_MS: i64 = 10_000;
/// The longest wait.
const BACK_OFF_MS_MAX: i64 = 30 * 60_000;
/// Tries when nobody can say whether the message arrived.
const UNSURE_TRIES_MAX: i32 = 3;
/// Deliveries merged into one digest; the rest goes into the next.
pub(super) const DIGEST_MAX: usize = 100;
/// What a receiver answered, as kept.
const ANSWER_CHARS_MAX: usize = 300;

/// A claimed delivery with all that its message needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// The delivery, claimed: state `Queued`, of the channel at hand.
    pub delivery: Delivery,
    /// Its incident as it stands now.
    pub incident: Incident,
    /// The incident's rule as it stands now.
    pub rule: Rule,
    /// The other deliveries of the incident; those of other channels are passed over.
    pub siblings: Vec<Delivery>,
}

/// What became of a delivery: to be stored whole. Deliveries that stay queued are due again at `due_ms`.
pub type Outcome = Delivery;

/// What to do with the claimed deliveries of a channel.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    /// Settled without sending.
    pub(super) settled: Vec<Outcome>,
    /// Messages to send, in order; more than one letter is a digest.
    pub(super) messages: Vec<Vec<Letter>>,
}

/// Decides. `room` is how many messages the channel may be sent now, `free_ms` when there is room again.
pub(super) fn plan(channel: &Channel, letters: Vec<Letter>, room: usize, free_ms: i64, now_ms: i64) -> Plan {
    let mut settled = Vec::new();
    let mut due: Vec<Letter> = Vec::new();
    let mut letters = letters;
    letters.sort_by_key(|letter| (letter.delivery.created_ms, rank(letter.delivery.transition)));
    for letter in letters {
        if let Some(why) = muted(channel, &letter, &due) {
            settled.push(done(letter.delivery, DeliveryState::Muted, why, now_ms));
        } else if now_ms.saturating_sub(letter.delivery.created_ms) >= GIVE_UP_MS {
            let answer = if letter.delivery.answer.is_empty() { "too old" } else { &letter.delivery.answer }.to_owned();
            settled.push(done(letter.delivery, DeliveryState::Failed, &answer, now_ms));
        } else if let Some(due_ms) = waits_until(&letter, &due) {
            settled.push(Delivery { due_ms: due_ms.max(now_ms + 1), ..letter.delivery });
        } else {
            due.push(letter);
        }
    }
    if room == 0 {
        settled.extend(due.into_iter().map(|letter| Delivery { due_ms: free_ms.max(now_ms + 1), ..letter.delivery }));
        return Plan { settled, messages: Vec::new() };
    }
    if due.len() <= room {
        return Plan { settled, messages: due.into_iter().map(|letter| vec![letter]).collect() };
    }
    // Less room than letters: everything in one digest, and the room that is left for what comes next.
    let later = due.split_off(due.len().min(DIGEST_MAX));
    settled.extend(later.into_iter().map(|letter| Delivery { due_ms: now_ms + BACK_OFF_MS, ..letter.delivery }));
    Plan { settled, messages: vec![due] }
}

/// The delivery after a try.
pub(super) fn after(delivery: Delivery, verdict: Verdict, answer: &str, now_ms: i64) -> Outcome {
    let mut delivery = Delivery { attempts: delivery.attempts.saturating_add(1), ..delivery };
    delivery.answer = clean(answer, ANSWER_CHARS_MAX);
    let wait_ms = match verdict {
        Verdict::Sent => return settle(delivery, DeliveryState::Sent, now_ms),
        Verdict::Refused => return settle(delivery, DeliveryState::Failed, now_ms),
        Verdict::Unsure if delivery.attempts >= UNSURE_TRIES_MAX => {
            return settle(delivery, DeliveryState::Failed, now_ms);
        }
        Verdict::Limited { wait_ms } => wait_ms,
        Verdict::Busy | Verdict::Unsure => back_off_ms(&delivery),
    };
    delivery.due_ms = now_ms.saturating_add(wait_ms);
    if delivery.due_ms.saturating_sub(delivery.created_ms) >= GIVE_UP_MS {
        return settle(delivery, DeliveryState::Failed, now_ms);
    }
    delivery
}

/// The delivery when one before it has just failed and is due at `before_ms`: it comes after that one, untried.
pub(super) fn put_off(delivery: Delivery, before_ms: i64, answer: &str) -> Outcome {
    Delivery { due_ms: before_ms.saturating_add(1), answer: clean(answer, ANSWER_CHARS_MAX), ..delivery }
}

fn settle(delivery: Delivery, state: DeliveryState, now_ms: i64) -> Outcome {
    Delivery { state, done_ms: Some(now_ms), ..delivery }
}

fn done(delivery: Delivery, state: DeliveryState, answer: &str, now_ms: i64) -> Outcome {
    settle(Delivery { answer: answer.to_owned(), ..delivery }, state, now_ms)
}

fn rank(transition: Transition) -> u8 {
    match transition {
        Transition::Warned => 0,
        Transition::Alarmed => 1,
        Transition::Resolved => 2,
    }
}

/// Why it is not sent, in a word that the console translates.
fn muted(channel: &Channel, letter: &Letter, due: &[Letter]) -> Option<&'static str> {
    if !channel.send {
        return Some("channel_off");
    }
    if !letter.rule.enabled || !letter.rule.send {
        return Some("rule_off");
    }
    if letter.incident.severity < channel.severity_min {
        return Some("below_severity");
    }
    if letter.delivery.transition != Transition::Resolved {
        return None;
    }
    // The end of something that was never told here would only puzzle.
    let told = earlier(letter).any(|sibling| matches!(sibling.state, DeliveryState::Sent | DeliveryState::Queued))
        || due.iter().any(|other| other.incident.id == letter.incident.id);
    (!told).then_some("beginning_not_sent")
}

/// What comes first and is still to be tried, before this one: messages of one incident keep their order.
fn waits_until(letter: &Letter, due: &[Letter]) -> Option<i64> {
    let in_hand = |id: &str| due.iter().any(|other| other.delivery.id == id);
    earlier(letter)
        .filter(|sibling| sibling.state == DeliveryState::Queued && !in_hand(&sibling.id))
        .map(|sibling| sibling.due_ms.saturating_add(1))
        .max()
}

fn earlier(letter: &Letter) -> impl Iterator<Item = &Delivery> {
    let own = &letter.delivery;
    letter.siblings.iter().filter(|sibling| {
        sibling.channel == own.channel
            && sibling.incident == own.incident
            && rank(sibling.transition) < rank(own.transition)
    })
}

/// Doubles with each try; a fifth to either side, drawn from the delivery's id, keeps many from coming at once.
fn back_off_ms(delivery: &Delivery) -> i64 {
    let doublings = delivery.attempts.saturating_sub(1).clamp(0, 16);
    let base_ms = (BACK_OFF_MS << doublings).min(BACK_OFF_MS_MAX);
    let digest = Sha256::digest(format!("{} {}", delivery.id, delivery.attempts));
    base_ms * (80 + i64::from(digest[0]) * 40 / 255) / 100
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::notify::tests::{T0, channel, disk_warning, letter};

    const MINUTE: i64 = 60_000;

    fn tried(attempts: i32, created_ms: i64) -> Delivery {
        Delivery { attempts, created_ms, ..letter(disk_warning(), Transition::Warned).delivery }
    }

    fn told(plan: &Plan) -> Vec<usize> {
        plan.messages.iter().map(Vec::len).collect()
    }

    fn letters(count: usize) -> Vec<Letter> {
        let numbered = |number: usize| {
            let mut letter = letter(disk_warning(), Transition::Warned);
            letter.delivery.id = format!("d{number:03}");
            letter.incident.id = format!("i{number:03}");
            letter.delivery.incident = letter.incident.id.clone();
            letter.delivery.created_ms += i64::try_from(number).unwrap();
            letter
        };
        (0..count).map(numbered).collect()
    }

    #[test]
    fn room_for_each_means_one_message_each_else_one_digest() {
        let plan_of = |count, room| plan(&channel("http://c"), letters(count), room, T0 + MINUTE, T0);
        assert_eq!(told(&plan_of(5, 18)), [1; 5]);
        assert_eq!(told(&plan_of(18, 18)), [1; 18]);
        assert_eq!(told(&plan_of(19, 18)), [19]);
        let huge = plan_of(130, 3);
        assert_eq!((told(&huge), huge.settled.len()), (vec![100], 30));
        assert!(huge.settled.iter().all(|later| later.state == DeliveryState::Queued && later.due_ms > T0));
        let none = plan_of(2, 0);
        assert!(none.messages.is_empty() && none.settled.iter().all(|later| later.due_ms == T0 + MINUTE));
    }

    #[test]
    fn what_was_switched_off_meanwhile_is_muted() {
        let muted = |channel: &Channel, letter: Letter| {
            let plan = plan(channel, vec![letter], 9, T0, T0);
            plan.settled.first().map(|outcome| (outcome.state, outcome.answer.clone()))
        };
        let open = channel("http://c");
        assert_eq!(muted(&open, letter(disk_warning(), Transition::Warned)), None);
        let mut off = open.clone();
        off.send = false;
        let said = muted(&off, letter(disk_warning(), Transition::Warned)).unwrap();
        assert_eq!(said, (DeliveryState::Muted, "channel_off".to_owned()));
        let mut quiet = letter(disk_warning(), Transition::Warned);
        quiet.rule.send = false;
        assert_eq!(muted(&open, quiet).unwrap().0, DeliveryState::Muted);
        let mut strict = open.clone();
        strict.severity_min = forewarn_common::keyword::Severity::Critical;
        assert_eq!(muted(&strict, letter(disk_warning(), Transition::Warned)).unwrap().0, DeliveryState::Muted);
    }

    #[test]
    fn the_end_is_told_only_where_the_beginning_was() {
        let state_of = |siblings: Vec<Delivery>| {
            let mut letter = letter(disk_warning(), Transition::Resolved);
            letter.siblings = siblings;
            let plan = plan(&channel("http://c"), vec![letter], 9, T0, T0);
            (told(&plan).len(), plan.settled.first().map(|outcome| (outcome.state, outcome.due_ms)))
        };
        let began = |state| Delivery { state, due_ms: T0 + 5 * MINUTE, ..tried(1, T0) };
        assert_eq!(state_of(vec![]).1.unwrap().0, DeliveryState::Muted);
        assert_eq!(state_of(vec![began(DeliveryState::Muted)]).1.unwrap().0, DeliveryState::Muted);
        assert_eq!(state_of(vec![began(DeliveryState::Sent)]), (1, None));
        let elsewhere = Delivery { channel: "other".into(), ..began(DeliveryState::Sent) };
        assert_eq!(state_of(vec![elsewhere]).1.unwrap().0, DeliveryState::Muted);
        // … and not before it.
        let waits = state_of(vec![began(DeliveryState::Queued)]).1.unwrap();
        assert_eq!(waits, (DeliveryState::Queued, T0 + 5 * MINUTE + 1));
    }

    #[test]
    fn one_incidents_messages_go_out_in_their_order() {
        let (first, last) = (letter(disk_warning(), Transition::Warned), letter(disk_warning(), Transition::Resolved));
        let last = Letter { siblings: vec![first.delivery.clone()], ..last };
        let plan = plan(&channel("http://c"), vec![last, first], 9, T0, T0);
        let order: Vec<_> = plan.messages.iter().flatten().map(|letter| letter.delivery.transition).collect();
        assert_eq!(order, [Transition::Warned, Transition::Resolved]);
    }

    #[test]
    fn waits_double_up_to_half_an_hour_and_a_day_is_the_end() {
        let mut delivery = tried(0, T0);
        let (mut now_ms, mut waits) = (T0, vec![]);
        while delivery.state == DeliveryState::Queued {
            delivery = after(delivery, Verdict::Busy, "down", now_ms);
            waits.push(delivery.due_ms - now_ms);
            now_ms = delivery.due_ms;
        }
        assert_eq!((delivery.state, delivery.answer.as_str()), (DeliveryState::Failed, "down"));
        assert!((8_000..=12_000).contains(&waits[0]), "{waits:?}");
        assert!((16_000..=24_000).contains(&waits[1]), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= 36 * MINUTE), "{waits:?}");
        assert!((40..100).contains(&waits.len()), "{}", waits.len());
        assert!((23 * 60 * MINUTE..=25 * 60 * MINUTE).contains(&(now_ms - T0)));
    }

    #[test]
    fn an_answer_that_nobody_understands_is_tried_three_times_and_shown() {
        let mut delivery = tried(0, T0);
        for _ in 0..2 {
            delivery = after(delivery, Verdict::Unsure, "<html>", T0);
            assert_eq!(delivery.state, DeliveryState::Queued);
        }
        delivery = after(delivery, Verdict::Unsure, "<html>", T0);
        assert_eq!((delivery.state, delivery.attempts), (DeliveryState::Failed, 3));
        assert_eq!(delivery.answer, "<html>");
    }

    #[test]
    fn a_refusal_is_final_and_a_delivery_of_yesterday_is_given_up() {
        assert_eq!(after(tried(0, T0), Verdict::Refused, "no", T0).state, DeliveryState::Failed);
        let mut old = letter(disk_warning(), Transition::Warned);
        old.delivery.created_ms = T0 - 25 * 60 * MINUTE;
        let plan = plan(&channel("http://c"), vec![old], 9, T0, T0);
        assert_eq!(plan.settled[0].state, DeliveryState::Failed);
    }
}
