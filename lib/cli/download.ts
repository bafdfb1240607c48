import { sourceFolder } from '../hub/source';
import { isHubName } from '../hub/names';
import { UsageError, defineCommand, helpFlag } from './command';
import { printJson } from './common';
import { hubFlags, hubOptions } from './hub_report';

export const download = defineCommand({
  summary: "Downloads a model or an adapter of the hub into the cache that Python's tools use.",
  usage: 'NAME [--revision REVISION] [--offline]',
  flags: {
    ...hubFlags,
    json: { type: 'boolean', help: 'the folder as one JSON object' },
    help: helpFlag,
  },
  positionals: ['NAME'],
  json: 'one object: { name, folder }',

  async run(values, console, [name]) {
    // A folder or a file of that name is not what is asked for here.
    const source = name!.startsWith('hf:') ? name! : `hf:${name}`;
    if (!isHubName(source))
      throw new UsageError(
        `download needs a name of the hub, such as org/name or org/name/FILE.gguf, but received ${JSON.stringify(name)}`,
      );
    const folder = await sourceFolder(source, 'download', 'any', hubOptions(console, values));
    if (values.json) printJson(console, { name, folder });
    else console.stdout.write(`${folder}\n`);
  },
});
