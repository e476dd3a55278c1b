/** Lines from hosts as they may be shown: colours removed, and nothing that hides or turns text around. Pure. */

const COLOUR = /\u001b\[[0-9;]*[A-Za-z]/g
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]/g

/** `text` with a mark in place of each control character, direction mark and invisible one. */
export function plain(text: string): string {
  return text.replace(COLOUR, '').replace(UNSEEN, '\u00b7')
}
