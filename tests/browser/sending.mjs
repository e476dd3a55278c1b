// A person on the page of rules: makes a keyword rule with fields and containers, and a rule for a metric of an
// endpoint, after having typed each wrongly once; in both languages. Answers with what the page said.
//
// Arguments: user, password, language, keyword and rule (what to type, by test id), wrong (likewise, with what is
// said of it), shot (prefix of screenshots).
import { browse } from './browser.mjs';

await browse(async ({ page, args, shot, requests }) => {
  const at = (id) => page.locator(`[data-testid="${id}"]`);
  const type = (id, text) => page.locator(`input[data-testid="${id}"], textarea[data-testid="${id}"], [data-testid="${id}"] input`).fill(text);
  const saw = { said: [] };
  const fill = async (fields) => {
    for (const [id, text] of Object.entries(fields)) await type(id, text);
  };

  await page.goto(args.url);
  await type('login-user', args.user);
  await type('login-password', args.password);
  await at('login-submit').click();
  await at('nav-sending').waitFor();
  await at(`language-${args.language}`).click();
  await at('nav-sending').click();

  for (const [what, open, save] of [['keyword', 'keyword-add', 'keyword-save'], ['rule', 'rule-add', 'rule-new-save']]) {
    await at(open).click();
    await fill({ ...args[what], ...args.wrong[what] });
    await at(save).click();
    const alert = page.locator('.el-dialog [role="alert"]').last();
    await alert.waitFor();
    saw.said.push(await alert.innerText());
    await fill(args[what]);
    await shot(`${args.shot}-${what}-${args.language}`);
    await at(save).click();
    await page.locator(`[data-testid="${save}"]`).waitFor({ state: 'hidden' });
  }
  await at(`keyword-${args.keyword['keyword-name']}`).waitFor();
  await page.getByText(args.rule['rule-new-name']).first().waitFor();
  saw.keyword = await at(`keyword-${args.keyword['keyword-name']}`).innerText();
  await shot(`${args.shot}-sending-${args.language}`);
  saw.requests = requests;
  return saw;
});
