"""A bank's telephone: the caller proves who they are by a PIN that they type, and that no model ever learns.

Run it with `phoneagent serve examples/bank.py`. The accounts are in memory, with their PINs hashed: in your app, these
functions ask your own systems.
"""

from decimal import Decimal
from hashlib import scrypt
from hmac import compare_digest

from phoneagent import Agent, Call, PhoneApp, ToolError, hang_up, keypad, tool

MAX_TRIES = 3
SALT = b"of the example"  # in your app, each account has its own


def hashed(pin: str) -> bytes:
    return scrypt(pin.encode(), salt=SALT, n=2**12, r=8, p=1)


accounts = {"100200": (hashed("1973"), Decimal("842.10")), "100300": (hashed("4711"), Decimal("12.00"))}


@tool
async def choose_account(call: Call, number: str) -> str:
    """Note the number of the account, six digits, as the caller says it. Then have them type its PIN."""
    call.state.update(account=number, known=False)
    return "Noted. Now ask for the PIN."  # and no word of whether there is such an account


@keypad(digits=4, describe="Check the PIN of the account, which the caller types.")
def check_pin(digits: str, call: Call) -> str:  # plain, because hashing takes its time: it runs in a thread
    tries = call.state["tries"] = call.state.get("tries", 0) + 1
    if tries > MAX_TRIES:
        raise ToolError("There were too many tries. Say so, and hang up.")
    pin, _ = accounts.get(call.state.get("account", ""), (hashed(""), Decimal()))
    if not compare_digest(pin, hashed(digits)):
        raise ToolError("The account's number or its PIN is wrong. Ask for both again.")
    call.state.update(known=True, tries=0)
    return "The PIN is right."


@tool
async def balance(call: Call) -> str:
    """Tell the balance, once the PIN was right."""
    if not call.state.get("known"):
        raise ToolError("The caller has not proved who they are: check the PIN first.")
    _, amount = accounts[call.state["account"]]
    return f"The balance is {amount} euros."


app = PhoneApp(
    Agent(
        name="bank",
        instructions="You answer the phone of Mill Street Bank. Tell callers their balance. Be brief.",
        greeting="Mill Street Bank, good day!",
        tools=[choose_account, check_pin, balance, hang_up],
    )
)
