const assert = require('assert');
const { Etcd3 } = require('etcd3');

async function main() {
  const client = new Etcd3({ hosts: `http://127.0.0.1:${process.env.KV_PORT}` });
  await client.put('js/a').value('1');
  assert.strictEqual(await client.get('js/a').string(), '1');
  assert.deepStrictEqual(await client.getAll().prefix('js/').strings(), { 'js/a': '1' });

  const watcher = await client.watch().key('js/w').create();
  const seen = new Promise((resolve) => watcher.on('put', (kv) => resolve(kv.value.toString())));
  await client.put('js/w').value('seen');
  assert.strictEqual(await seen, 'seen');
  await watcher.cancel();

  const lease = client.lease(100);
  await lease.put('js/leased').value('x');
  await lease.revoke();
  assert.strictEqual(await client.get('js/leased').string(), null);

  // Transactional memory, and locks: four at once, none lost.
  await client.put('js/stm').value('0');
  await client.put('js/locked').value('0');
  const adders = [1, 2, 3, 4].map(async () => {
    for (let n = 0; n < 10; n++) {
      await client.stm({ retries: 100 }).transact(async (tx) => {
        await tx.put('js/stm').value((await tx.get('js/stm').number()) + 1);
      });
    }
    for (let tried = false; !tried; ) {
      try {
        await client.lock('js/lock').do(async () => {
          await client.put('js/locked').value((await client.get('js/locked').number()) + 1);
        });
        tried = true;
      } catch (error) {
        // The client does not wait for a lock: it says that somebody has it.
        if (error.constructor.name !== 'EtcdLockFailedError') throw error;
      }
    }
  });
  await Promise.all(adders);
  assert.strictEqual(await client.get('js/stm').number(), 40);
  assert.strictEqual(await client.get('js/locked').number(), 4);

  const election = client.election('js/election', 60);
  const campaign = election.campaign('me');
  await new Promise((resolve, reject) => campaign.on('elected', resolve).on('error', reject));
  assert.strictEqual(await election.leader(), 'me');
  await campaign.resign();
  assert.strictEqual(await election.leader(), undefined);
  client.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
