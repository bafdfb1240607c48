// The reference of the command line, out of the table that its parser and its help read.
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { buildSync } from 'esbuild';
import { textAssets } from '../text-assets.mjs';
import { escapeHtml } from './markdown.mjs';

/** The modules of lib/cli that hold the table: compiled in memory, so that no build has to come first. */
export function readCommandLine(root) {
  const contents = `
    export { commands } from './commands';
    export { exitCodes } from './command';
    export { defaultOf, flagName, help, placeholder, spelling } from './args';`;
  const { outputFiles } = buildSync({
    stdin: { contents, resolveDir: join(root, 'lib/cli'), loader: 'ts' },
    bundle: true,
    platform: 'node',
    format: 'cjs',
    packages: 'external',
    loader: textAssets,
    write: false,
  });
  const module = { exports: {} };
  const path = join(root, 'lib/cli/commands.js');
  new Function('module', 'exports', 'require', '__dirname', outputFiles[0].text)(
    module,
    module.exports,
    createRequire(path),
    join(root, 'lib/cli'),
  );
  return module.exports;
}

/** Help text as Markdown: flags and braces as code. */
const prose = (text) => text.replace(/--[a-z][a-z-]*|\{[^{}]*\}/g, '`$&`').replace(/[<>|]/g, (c) => `\\${c}`);

const bounds = ({ type, minimum }) =>
  [type === 'integer' ? 'whole number' : '', minimum === undefined ? '' : `at least ${minimum}`]
    .filter((part) => part !== '')
    .join(', ');

/** One section per command: usage, flags, what --json prints. */
export function commandReference({ commands, defaultOf, flagName, placeholder, spelling }) {
  return Object.entries(commands)
    .map(([name, command]) => {
      const flags = Object.entries(command.flags).map(([key, flag]) => {
        const id = `${name}-${flagName(key)}`;
        const spelled = spelling(key, flag);
        const short = flag.short === undefined ? '' : `<code>-${flag.short}</code> `;
        const standard = defaultOf(flag);
        const facts = [
          flag.required ? '<span class="flag required">required</span>' : '',
          standard === undefined
            ? ''
            : `<span class="flag">default <code>${escapeHtml(standard)}</code></span>`,
          bounds(flag) === '' ? '' : `<span class="flag">${bounds(flag)}</span>`,
        ].join('');
        const choices =
          flag.choices === undefined ? '' : `: ${flag.choices.map((one) => `\`${one}\``).join(', ')}`;
        return (
          `<div class="field" id="${id}">\n<div class="field-head">${short}<a class="field-name" href="#${id}"><code>${spelled}</code></a> ` +
          `<code class="type">${escapeHtml(placeholder(flag))}</code>${facts}</div>\n\n${prose(flag.help)}${choices}\n\n</div>\n`
        );
      });
      return (
        `## lora-native ${name} {#${name}}\n\n${command.summary}\n\n` +
        `\`\`\`text\nlora-native ${name} ${command.usage}\n\`\`\`\n\n` +
        `<div class="fields">\n${flags.join('')}</div>\n\n` +
        `With \`--json\` it prints ${prose(command.json)}\n\n`
      );
    })
    .join('');
}

/** Exit codes as a table. */
export const exitCodeReference = ({ exitCodes }) =>
  `| code | meaning |\n|---|---|\n${Object.entries(exitCodes)
    .map(([code, meaning]) => `| \`${code}\` | ${meaning} |`)
    .join('\n')}\n`;
