/** HTML out of text of strangers, and what its policy says of its own scripts and styles. */
import { createHash } from 'node:crypto';

/** Characters that HTML forbids, and those that hide text or turn its direction, are spelt out. */
const unprintable =
  /(?![\t\n])[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]/gu;

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** A text as it stands, between tags or in a quoted attribute. */
export const escapeHtml = (text: string): string =>
  text
    .replace(/\r\n?/g, '\n')
    .replace(unprintable, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)
    .replace(/[&<>"']/g, (c) => entities[c]!);

/** JSON that may stand in a script element. What is no number there is null. */
export const scriptJson = (value: unknown): string =>
  JSON.stringify(value).replace(
    /[<>&\u2028\u2029]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );

/** By which a Content-Security-Policy lets a script or a style of the page run, and no other. */
export const policyHash = (text: string): string =>
  `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

/** By which a report is known. */
export const generator = '<meta name="generator" content="lora-native training report">';
