import { sourceFolder } from '../hub/source';
import { isHubName } from '../hub/names';
import { UsageError, defineCommand, helpFlag } from './command';
import { printJson } from './common';
import { hubOptions } from './hub_report';

export const download = defineCommand({
  summary: "Downloads a model or an adapter of the hub into the cache that Python's tools use.",
  usage: 'NAME [--revision REVISION]',
  flags: {
    revision: {
      type: 'string',
      value: 'REVISION',
      help: 'a branch, a tag or a commit',
      defaultText: 'main',
    },
    json: { type: 'boolean', help: 'the folder as one JSON object' },
    help: helpFlag,
  },
  positionals: ['NAME'],
  json: 'one object: { name, folder }',

  async run({ revision, json }, console, [name]) {
    if (!isHubName(name!))
      throw new UsageError(
        `download needs a name of the hub, such as org/name, but received ${JSON.stringify(name)}`,
      );
    // A folder of that name is not what is asked for here.
    const source = name!.startsWith('hf:') ? name! : `hf:${name}`;
    const folder = await sourceFolder(source, 'download', 'any', { ...hubOptions(console), revision });
    if (json) printJson(console, { name, folder });
    else console.stdout.write(`${folder}\n`);
  },
});
