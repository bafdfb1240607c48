/** A hub of its own for the tests of one file, and a fresh home of its cache for each of them. */
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { HubServer } from './hub_server';
import { temporaryFolder } from './temporary';

export interface HubHome {
  readonly hub: HubServer;
  /** HF_HOME. */
  readonly home: string;
}

/** To be called at the top of a file: no variable of the hub that is set outside reaches the tests. */
export function hubHome(): HubHome {
  const root = temporaryFolder();
  const before = { ...process.env };
  let hub: HubServer;
  let home: string;
  beforeAll(async () => {
    hub = await HubServer.start();
  });
  afterAll(() => hub.stop());
  beforeEach(() => {
    hub.reset();
    home = mkdtempSync(join(root, 'home-'));
    for (const name of Object.keys(process.env))
      if (/^(HF_|HUGG|TRANSFORMERS_|XDG_)/.test(name)) delete process.env[name];
    Object.assign(process.env, hub.environment(home));
  });
  afterEach(() => {
    for (const name of Object.keys(process.env)) if (!(name in before)) delete process.env[name];
    Object.assign(process.env, before);
  });
  return {
    get hub() {
      return hub;
    },
    get home() {
      return home;
    },
  };
}
