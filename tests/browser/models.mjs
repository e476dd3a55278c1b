// A person on the page of models: trains one on a host's history, reads what it is worth beside the default, and lets
// it judge that host. Answers with what the page said.
//
// Arguments: user, password, train (what to type, by test id), rule and host (labels to choose), shot (prefix of
// screenshots).
import { browse } from './browser.mjs';

await browse(async ({ page, args, shot }) => {
  const at = (id) => page.locator(`[data-testid="${id}"]`);
  const type = (id, text) => page.locator(`input[data-testid="${id}"], [data-testid="${id}"] input`).fill(text);
  const choose = async (id, label) => {
    await page.locator(`.el-dialog:visible [data-testid="${id}"]`).click();
    await page.locator('.el-select-dropdown__item:visible').filter({ hasText: label }).first().click();
  };
  const saw = {};

  await page.goto(args.url);
  await type('login-user', args.user);
  await type('login-password', args.password);
  await at('login-submit').click();
  await at('nav-models').waitFor();
  await at('language-en').click();
  await at('nav-models').click();

  await at('train-open').click();
  await choose('train-rule', args.rule);
  await choose('scope', args.host);
  for (const [id, text] of Object.entries(args.train)) await type(id, text);
  await shot(`${args.shot}-train`);
  await at('train-start').click();
  const own = { hasText: args.train['train-name'] };
  const training = page.locator('[data-testid="training"][data-outcome="trained"]').filter(own);
  await training.waitFor();
  saw.training = await training.innerText();
  const model = at('model').filter(own);
  await model.locator('[data-testid="model-details"]').click();
  await model.locator('table').first().waitFor();
  saw.model = await model.innerText();
  await model.locator('[data-testid="model-adopt"]').click();
  await choose('scope', args.host);
  await at('model-adopt-save').click();
  await model.locator('[data-testid="adoption"]').waitFor();
  await page.locator('.el-overlay').last().waitFor({ state: 'hidden' });
  saw.adoption = await model.locator('[data-testid="adoption"]').innerText();
  await shot(`${args.shot}-en`);
  await at('language-zh').click();
  saw.chinese = await page.locator('main').innerText();
  await shot(`${args.shot}-zh`);
  return saw;
});
