const { TestEnvironment } = require('jest-environment-node');
const { keepCases } = require('./tiers.cjs');

/** Node's environment, in which a file has the cases of its tier alone. Those of another are not skipped tests: they are not there. */
module.exports = class extends TestEnvironment {
  constructor(config, context) {
    super(config, context);
    const { tier } = config.projectConfig.testEnvironmentOptions;
    this.handleTestEvent = ({ name }, { rootDescribeBlock }) => {
      if (name === 'run_start') keepCases(tier, context.testPath, rootDescribeBlock);
    };
  }
};
