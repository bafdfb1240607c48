import { isHubName } from '../hub/names';
import { pushFiles } from '../hub/push';
import { pushTarget } from '../hub/push_options';
import { folderToPush } from '../hub/pushed_folder';
import { defineCommand, helpFlag, UsageError } from './command';
import { note, printJson } from './common';
import { PushReport } from './push_report';

export const push = defineCommand({
  summary: 'Uploads the adapter or the model of a folder, with its card, to the hub.',
  usage: 'RUN org/name [--private] [--revision BRANCH] [--message TEXT]',
  flags: {
    private: { type: 'boolean', help: 'only who you let may read it; a public repository gets nothing' },
    revision: {
      type: 'string',
      value: 'BRANCH',
      help: 'the branch, created where it is missing',
      defaultText: 'main',
    },
    message: {
      type: 'string',
      value: 'TEXT',
      help: 'what the commit is called',
      defaultText: 'Upload with lora-native',
    },
    json: { type: 'boolean', help: 'what was pushed as one JSON object' },
    help: helpFlag,
  },
  positionals: ['RUN', 'NAME'],
  json: 'one object: { repository, revision, url, commit, files, created }',

  async run(values, console, [run, name]) {
    const target = name!.startsWith('hf:') ? name! : `hf:${name}`;
    if (!isHubName(target))
      throw new UsageError(
        `push needs the name of a repository, such as org/name, but received ${JSON.stringify(name)}`,
      );
    const { revision, message } = values;
    const report = new PushReport(console);
    // Without the flag, its owner's setting decides.
    const visibility = values.private ? { private: true } : {};
    const options = { ...visibility, revision, message, signal: console.signal, onProgress: report.show };
    const repository = pushTarget('push', target, options);
    const files = await folderToPush('push', run!);
    const result = await pushFiles('push', repository, files, options);
    const { commit, url } = result;
    if (values.json) printJson(console, result);
    else console.stdout.write(`${url}\n`);
    const changed = result.files.length;
    const what = changed === 0 ? 'nothing differs from' : `${changed} files in`;
    note(console, `${what} commit ${commit.slice(0, 12)} of ${result.revision}`);
  },
});
