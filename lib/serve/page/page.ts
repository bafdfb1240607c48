/** The page at /: one document that loads nothing, and asks this server alone. */
import colours from '../../train/report/colours.client.css';
import { policyHash } from '../../train/report/html';
import type { Exchange } from '../exchange';
import style from './chat.client.css';
import script from './chat.client.js';

const column = (
  name: string,
  hidden: string,
): string => `<section class="column" aria-label="${name}"${hidden}>
<label>${name} <select></select></label>
<div class="log" role="log" tabindex="0"></div>
<p class="figures"></p>
</section>`;

/** `needsKey`: whether the page asks for an API key before it asks for anything else. */
function documentOf(styles: string, needsKey: boolean): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>lora-native</title>
<style>${styles}</style>
</head>
<body>
<header>
<h1>lora-native</h1>
<label><input type="checkbox" id="compare"> Compare two models</label>
<button type="button" id="new">New conversation</button>
</header>
<form id="access"${needsKey ? '' : ' hidden'}>
<label>API key <input type="password" id="key" autocomplete="off"></label>
<button>Use this key</button>
</form>
<p id="trouble" class="trouble" role="alert"></p>
<main>
${column('Model', '')}
${column('Second model', ' hidden')}
</main>
<form id="composer">
<textarea id="message" rows="3" aria-label="Message" placeholder="Message"></textarea>
<div class="buttons">
<button id="send" disabled>Send</button>
<button type="button" id="stop" disabled>Stop</button>
<details>
<summary>Settings</summary>
<div class="settings">
<label>Temperature <input type="number" id="temperature" min="0" max="2" step="0.1"></label>
<label>Most tokens <input type="number" id="most" min="1" step="1"></label>
<label>System message <textarea id="system" rows="1"></textarea></label>
</div>
</details>
</div>
</form>
<script type="module">${script}</script>
</body>
</html>
`;
}

/** What a browser lets the page do: run this script and this style, and ask this server. */
const policyOf = (styles: string): string =>
  [
    "default-src 'none'",
    `script-src ${policyHash(script)}`,
    `style-src ${policyHash(styles)}`,
    "connect-src 'self'",
    'img-src data:', // an empty icon, so that browsers ask for no other
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
  ].join('; ');

/** Answers with the page, which is no secret: what it asks for needs a key where there are keys. */
export function sendPage(exchange: Exchange, needsKey: boolean): void {
  const styles = colours + style;
  exchange.text(documentOf(styles, needsKey), 'text/html; charset=utf-8', 200, {
    'content-security-policy': policyOf(styles),
    'referrer-policy': 'no-referrer',
    'cache-control': 'no-cache',
  });
}
