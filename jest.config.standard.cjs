// README's scripts/test.sh: what someone runs once to trust the package.
module.exports = require('./test/support/tiers.cjs').configOf('standard');
