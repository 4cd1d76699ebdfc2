"""Wordings of generated questions, in three pools per task that were written apart; see `data`."""

# -- wordings: [[a|b]] is a choice, {x} is filled; three pools per task

W = {
    "add": {
        "train": ["{a} + {b}", "[[What is|Work out|Calculate|Tell me]] {a} plus {b}", "Add {a} [[and|to]] {b}", "[[Find|What is|Determine]] the sum of {a} and {b}", "{a} [[added to|increased by]] {b}", "[[Sum|Total]] {a} and {b}"],
        "dev": ["What do {a} and {b} add up to", "Put {a} and {b} together", "{a} and {b} added together make what", "If you add {b} to {a}, what do you get", "What total do {a} and {b} give together", "Combine {a} with {b}", "How much is {a} and {b} in all", "What is {b} more than {a}", "Could you sum {a} and {b} for me", "What do you get when {b} is added to {a}", "Find the combined total of {a} and {b}"],
        "held": ["What's {a} and {b} summed", "{b} on top of {a} makes what", "Please total up {a} and {b}", "How much do {a} and {b} come to when added", "I had {a} and got {b} more, how many now"],
    },
    "sub": {
        "train": ["{a} - {b}", "[[What is|Work out|Calculate]] {a} minus {b}", "[[Subtract|Deduct]] {b} from {a}", "[[Find|What is]] the difference [[between|of]] {a} and {b}", "{a} [[less|decreased by|take away]] {b}"],
        "dev": ["What remains when {b} is taken away from {a}", "By how much does {a} exceed {b}", "What is {a} reduced by {b}", "Take {b} from {a}", "How much is left if you remove {b} from {a}", "What is {b} less than {a}", "How much bigger is {a} than {b}", "Take {b} away from {a} and tell me the result", "{a} with {b} subtracted", "Start with {a} and take away {b}", "What do I have left after subtracting {b} from {a}"],
        "held": ["What's left when {b} is deducted from {a}", "{a} take away {b}", "By what amount is {a} larger than {b}", "Remove {b} from {a}", "How much more is {a} than {b}", "What must be added to {b} to get {a}"],
    },
    "mul": {
        "train": ["{a} * {b}", "[[What is|Work out|Calculate]] {a} times {b}", "Multiply {a} [[by|with]] {b}", "[[Find|What is]] the product of {a} and {b}", "{a} multiplied by {b}", "{a} x {b}"],
        "dev": ["What does {a} multiplied by {b} come to", "Multiply {a} and {b} together", "What are {a} lots of {b}", "How much is {a} taken {b} times", "If I multiply {a} by {b}, what comes out", "What is {a} by {b}", "Give the result of multiplying {a} with {b}", "{a} groups of {b} make how many", "The product when {a} meets {b}"],
        "held": ["What's {a} times {b}", "Work out {b} lots of {a}", "{a} multiplied with {b} gives what", "Could you multiply {a} by {b}", "Find {a} times {b} for me"],
    },
    "div": {
        "train": ["{a} / {b}", "[[What is|Work out|Calculate]] {a} divided by {b}", "Divide {a} by {b}", "[[Find|What is]] the quotient of {a} and {b}", "{a} over {b}", "[[What is|Give]] the ratio of {a} to {b}"],
        "dev": ["Split {a} into {b} equal parts", "How many times does {b} go into {a}", "Share {a} equally among {b} people", "What do you get if {a} is split evenly between {b}", "How often does {b} fit into {a}", "Distribute {a} over {b} groups", "What is one share when {a} is shared by {b}", "{a} divided into {b} equal shares", "Find the ratio between {a} and {b}"],
        "held": ["What's {a} over {b}", "If {a} is divided by {b}, what is the outcome", "How often is {b} contained in {a}", "{a} shared out among {b} people is how much each", "Work out {a} divided by {b}"],
    },
    "addmul": {
        "train": ["Multiply the sum of {a} and {b} by {c}", "({a} + {b}) * {c}", "[[What is|Compute]] {c} times the sum of {a} and {b}", "Add {a} and {b}, then multiply the result by {c}"],
        "dev": ["Take the sum of {a} and {b} and multiply it by {c}", "{a} plus {b}, all multiplied by {c}", "First add {a} to {b}, after that multiply by {c}", "What is the product of {c} and the sum of {a} and {b}", "The total of {a} and {b}, times {c}", "Sum {a} and {b} and then times that by {c}"],
        "held": ["Add up {a} and {b} and multiply what you get by {c}", "What is {a} plus {b}, the whole multiplied by {c}", "{c} times the total of {a} and {b}"],
    },
    "submul": {
        "train": ["Multiply the difference between {a} and {b} by {c}", "({a} - {b}) * {c}", "{c} times the difference between {a} and {b}"],
        "dev": ["Subtract {b} from {a} and multiply the answer by {c}", "The difference of {a} and {b} multiplied by {c}", "Take {b} away from {a}, then multiply by {c}", "How much is {c} times the difference of {a} and {b}"],
        "held": ["Deduct {b} from {a}, then multiply the answer by {c}", "What do you get by multiplying the difference between {a} and {b} by {c}"],
    },
    "divadd": {
        "train": ["{a} divided by {b}, plus {c}", "{a} / {b} + {c}", "Add {c} to the quotient of {a} and {b}"],
        "dev": ["Divide {a} by {b} and add {c}", "Add {c} to {a} divided by {b}", "What is the ratio of {a} to {b}, increased by {c}", "Divide {a} by {b}, then add {c} to the result"],
        "held": ["Take {a} divided by {b} and then add {c}", "{c} added to the quotient of {a} and {b}"],
    },
    "mulsub": {
        "train": ["Subtract {c} from the product of {a} and {b}", "{a} * {b} - {c}", "[[What is|Compute]] {a} times {b} minus {c}"],
        "dev": ["Multiply {a} by {b}, then subtract {c}", "The product of {a} and {b}, less {c}", "Take {c} away from {a} times {b}", "What remains when {c} is taken from the product of {a} and {b}"],
        "held": ["From the product of {a} and {b}, subtract {c}", "Multiply {a} and {b}; then deduct {c}"],
    },
    "pct_of": {
        "train": ["[[What is|Compute|Find]] {p}% of {a}", "{p} percent of {a}", "How much is {p} per cent of {a}"],
        "dev": ["What does {p}% of {a} come to", "Give me {p} percent of {a}", "I need {p}% out of {a}", "How large is a {p}% share of {a}"],
        "held": ["What is {p} percent out of {a}", "Find {p}% of {a}", "How many is {p}% of {a}"],
    },
    "pct_up": {
        "train": ["Increase {a} by {p}%", "[[What is|Compute]] {a} plus {p}%", "Add {p} percent to {a}"],
        "dev": ["Raise {a} by {p} percent", "{a} goes up by {p}%: what is it now", "What is {a} after a rise of {p} percent", "What is {p}% more than {a}", "Grow {a} by {p} per cent"],
        "held": ["Add {p}% on top of {a}", "What do you get when {a} is increased by {p}%", "{a} with {p}% added"],
    },
    "pct_down": {
        "train": ["Decrease {a} by {p}%", "[[What is|Compute]] {a} minus {p}%", "Reduce {a} by {p} percent", "Take {p}% off {a}"],
        "dev": ["Lower {a} by {p} percent", "What is {a} with a {p}% discount", "{p}% off {a}", "Knock {p} percent off {a}", "What is {a} after a reduction of {p}%"],
        "held": ["What is left of {a} after taking off {p}%", "Reduce {a} by {p} per cent", "{a} minus a {p}% discount"],
    },
    "currency": {
        "train": ["Convert {n} {f} to {t}", "How much is {n} {f} in {t}", "What is {n} {f} in {t}", "[[Change|Exchange]] {n} {f} into {t}", "{n} {f} to {t}", "How many {t} do I get for {n} {f}"],
        "dev": ["What is {n} {f} worth in {t}", "Express {n} {f} in {t}", "If I exchange {n} {f}, how many {t} will I receive", "I have {n} {f}; how much is that in {t}", "Turn {n} {f} into {t}", "What would {n} {f} be in {t}", "How many {t} can I buy with {n} {f}", "Give the {t} value of {n} {f}", "{n} {f} equals how many {t}", "In {t}, how much is {n} {f}"],
        "held": ["How much {t} is {n} {f}", "What's {n} {f} in {t}", "Swap {n} {f} for {t}", "Please change {n} {f} to {t}", "What do {n} {f} come to in {t}", "{n} {f} - how many {t} is that"],
    },
    "currency_dated": {
        "train": ["Convert {n} {f} to {t} at the rate of {d}", "How much was {n} {f} in {t} on {d}", "What was {n} {f} worth in {t} on {d}", "Using the rate of {d}, convert {n} {f} to {t}"],
        "dev": ["On {d}, how many {t} would {n} {f} get me", "Exchange {n} {f} into {t} with the rate from {d}", "With the {d} exchange rate, what is {n} {f} in {t}", "Back on {d}, how much was {n} {f} in {t}", "What were {n} {f} worth in {t} as of {d}", "Turn {n} {f} into {t} going by the rate on {d}", "How many {t} did {n} {f} buy on {d}"],
        "held": ["What was the value of {n} {f} in {t} on {d}", "Convert {n} {f} to {t}, rate of {d}", "At the exchange rate on {d}, how many {t} are {n} {f}", "How much did {n} {f} fetch in {t} on {d}"],
    },
    "units": {
        "train": ["Convert {n} {f} to {t}", "What is {n} {f} in {t}", "How many {t} are in {n} {f}", "{n} {f} in {t}", "Express {n} {f} in {t}", "Change {n} {f} into {t}"],
        "dev": ["How many {t} make up {n} {f}", "{n} {f} equals how many {t}", "Turn {n} {f} into {t}", "What does {n} {f} come to in {t}", "I measured {n} {f}; what is that in {t}", "How much is {n} {f} when expressed in {t}", "Give {n} {f} as {t}", "How many {t} is {n} {f}", "{n} {f} corresponds to how many {t}", "Rewrite {n} {f} in {t}"],
        "held": ["What's {n} {f} in {t}", "How many {t} do {n} {f} make", "{n} {f} is the same as how many {t}", "Switch {n} {f} over to {t}", "Can you express {n} {f} using {t}"],
    },
    "days_between": {
        "train": ["How many days are there between {d} and {e}", "[[Count|Give]] the number of days from {d} to {e}", "Days between {d} and {e}", "How many days lie between {d} and {e}"],
        "dev": ["How many days passed from {d} until {e}", "What is the number of days separating {d} and {e}", "How many days apart are {d} and {e}", "From {d} to {e} is how many days", "How long is it in days from {d} to {e}", "How many days after {d} is {e}", "What is the gap in days between {d} and {e}", "How many days elapse from {d} to {e}"],
        "held": ["Work out the days from {d} to {e}", "What number of days lies between {d} and {e}", "Between {d} and {e}, how many days pass", "How many days does it take to get from {d} to {e}", "Tell me the difference in days between {d} and {e}"],
    },
    "weekday": {
        "train": ["What day of the week [[is|was]] {d}", "Which weekday is {d}", "On which day of the week does {d} fall", "What weekday was {d}"],
        "dev": ["Tell me the weekday of {d}", "{d} is which day of the week", "Name the day of the week for {d}", "On what weekday did {d} land", "Is {d} a Monday, or which weekday is it", "Which day of the week was it on {d}", "{d} fell on which weekday"],
        "held": ["What was the weekday on {d}", "{d}: which day of the week", "Find out what day of the week {d} was", "Which day was {d}", "Did {d} fall on a Tuesday, or what weekday was it"],
    },
    "shift_after": {
        "train": ["What date is {k} {span} after {d}", "Which date comes {k} {span} after {d}", "What is the date {k} {span} from {d}", "Add {k} {span} to {d}"],
        "dev": ["{d} plus {k} {span} is what date", "Go {k} {span} forward from {d}", "What day of the calendar is {k} {span} later than {d}", "If {k} {span} pass after {d}, what is the date", "Count {k} {span} on from {d}", "Starting from {d}, what date is it {k} {span} later", "Give me the date {k} {span} past {d}"],
        "held": ["Which date do you get {k} {span} after {d}", "What's the date {k} {span} following {d}", "Move {k} {span} ahead from {d}", "When is it {k} {span} after {d}"],
    },
    "shift_before": {
        "train": ["What date is {k} {span} before {d}", "Which date comes {k} {span} before {d}", "Subtract {k} {span} from {d}"],
        "dev": ["{k} {span} earlier than {d} is what date", "What was the date {k} {span} prior to {d}", "Go back {k} {span} from {d}", "Which date precedes {d} by {k} {span}", "Starting at {d}, what date was it {k} {span} earlier"],
        "held": ["Which date was {k} {span} before {d}", "What's the date if you go {k} {span} back from {d}", "When was it {k} {span} before {d}", "Take {k} {span} off {d}"],
    },
    "ago": {
        "train": ["What date was {k} {span} ago", "Which date was it {k} {span} ago"],
        "dev": ["{k} {span} ago was what date", "What was the date {k} {span} back from today", "Tell me the date of {k} {span} ago"],
        "held": ["What day was it {k} {span} ago", "Which calendar date lies {k} {span} in the past"],
    },
    "ahead": {
        "train": ["What date will it be in {k} {span}", "What is the date {k} {span} from now"],
        "dev": ["What will the date be {k} {span} from today", "In {k} {span}, what date is it", "What date do we reach {k} {span} from today", "Which date comes {k} {span} from now"],
        "held": ["What's the date {k} {span} ahead", "Which date is {k} {span} in the future", "What will be the date in {k} {span}"],
    },
    "age": {
        "train": ["How many full years have passed since {d}", "How old is someone born on {d}", "How many full years are there between {d} and today"],
        "dev": ["What is the age of a person born on {d}", "How many complete years since {d}", "Somebody was born on {d}. How old are they now", "If I was born on {d}, how old am I", "How many whole years have gone by since {d}", "Give the age in years of someone born {d}", "How many complete years lie between {d} and today"],
        "held": ["A child born on {d} is how many years old today", "How many full years old is someone with the birthday {d}", "Count the full years since {d}", "What age is a person whose date of birth is {d}"],
    },
    "tmax": {
        "train": ["What was the highest temperature in {w} on {d}", "How hot did it get in {w} on {d}", "Maximum temperature in {w} on {d}"],
        "dev": ["What was the daytime high in {w} on {d}", "How warm was it in {w} on {d}", "What was the peak temperature recorded at {w} on {d}", "On {d}, how warm did {w} get", "Tell me the top temperature for {w} on {d}", "How hot was {w} on {d}", "What maximum did the thermometer reach in {w} on {d}"],
        "held": ["What was the warmest it got in {w} on {d}", "How high did the temperature climb in {w} on {d}", "{w}, {d}: maximum temperature", "What was the high in {w} on {d}"],
    },
    "tmin": {
        "train": ["What was the lowest temperature in {w} on {d}", "How cold did it get in {w} on {d}", "Minimum temperature in {w} on {d}"],
        "dev": ["What was the overnight low in {w} on {d}", "How cold was {w} on {d}", "On {d}, what was the coldest it got in {w}", "Give the minimum temperature at {w} for {d}", "What low did {w} drop to on {d}"],
        "held": ["What was the coldest temperature in {w} on {d}", "How low did the temperature fall in {w} on {d}", "{w}, {d}: lowest temperature", "What was the low in {w} on {d}"],
    },
    "rain": {
        "train": ["How much rain fell in {w} on {d}", "What was the rainfall in {w} on {d}", "How much did it rain in {w} on {d}"],
        "dev": ["What precipitation was recorded in {w} on {d}", "How wet was it in {w} on {d}", "How many millimetres of rain did {w} have on {d}", "On {d}, how much precipitation did {w} see", "Rain total for {w} on {d}"],
        "held": ["Did it rain in {w} on {d}, and how much", "How many mm of rain came down in {w} on {d}", "Amount of precipitation for {w} on {d}", "What rainfall did {w} record on {d}"],
    },
    "wind": {
        "train": ["What was the wind speed in {w} on {d}", "How windy was it in {w} on {d}", "Wind in {w} on {d}"],
        "dev": ["How strong was the wind in {w} on {d}", "How fast did the wind blow in {w} on {d}", "How hard was it blowing in {w} on {d}", "What wind did {w} have on {d}", "How strong were the gusts at {w} on {d}"],
        "held": ["What was the speed of the wind in {w} on {d}", "Wind speed for {w} on {d}", "How strong a wind blew in {w} on {d}"],
    },
    "wiki": {
        "train": ["{q}"],
        "dev": ["{q}", "Tell me: {q}", "Do you know: {q}"],
        "held": ["{q}", "I wonder: {q}", "Could you look up: {q}"],
    },
    "pay_of": {
        "train": ["What is the {pay} of {person}", "How much does {person} earn", "What {pay} does {person} get"],
        "dev": ["What does {person} {earn}", "{person}'s {pay}", "How much is {person} paid", "Tell me what {person} earns", "Look up {person}'s {pay}", "How big is the {pay} of {person}"],
        "held": ["What does {person} get paid", "State the {pay} of {person}", "What is {person}'s {pay}", "How much money does {person} make"],
    },
    "group_of": {
        "train": ["Which {group} does {person} work in", "What {group} is {person} in"],
        "dev": ["In which {group} is {person}", "To which {group} does {person} belong", "Name the {group} of {person}", "What is {person}'s {group}"],
        "held": ["Where does {person} work, which {group}", "{person} is in which {group}", "Which {group} is {person} part of"],
    },
    "since_of": {
        "train": ["When did {person} {join}", "When was {person} hired"],
        "dev": ["On what date did {person} start", "On which date was {person} taken on", "Since when has {person} worked here", "What is the date on which {person} started"],
        "held": ["When did {person} begin working here", "Tell me the start date of {person}", "On what day did {person} join"],
    },
    "count_group": {
        "train": ["How many {people} work in {g}", "How many {people} are in {g}"],
        "dev": ["What is the number of {people} in {g}", "Count the {people} in {g}", "How many {people} does {g} have", "How many {people} belong to {g}", "Give the headcount of {g}", "How large is the {g} {group}"],
        "held": ["What's the number of {people} working in {g}", "How many {people} are there in {g}", "How many people work for {g}"],
    },
    "avg_group": {
        "train": ["What is the average {pay} in {g}", "What is the mean {pay} of {people} in {g}"],
        "dev": ["How much do {people} in {g} earn on average", "On average, what {pay} do {people} in {g} get", "Average {pay} for {g}", "What does a typical {g} {persons} {earn}"],
        "held": ["What is the average {pay} across {g}", "Mean {pay} in {g}", "How much does someone in {g} earn on average"],
    },
    "top_group": {
        "train": ["Who is the best paid {persons} in {g}", "Which {persons} in {g} has the highest {pay}"],
        "dev": ["Who has the largest {pay} in {g}", "Who earns the most in {g}", "Name the top earner in {g}", "Who is the highest-paid {persons} of {g}", "Which {persons} earns most in {g}"],
        "held": ["Which of the {people} in {g} is paid the most", "Who gets the highest {pay} in {g}", "Best earning {persons} in {g}"],
    },
    "max_home": {
        "train": ["What is the highest {pay} in {w}", "What is the highest {pay} among {people} from {w}"],
        "dev": ["What is the top {pay} in {w}", "What is the maximum {pay} of {people} living in {w}", "How much does the best paid {persons} in {w} earn", "The biggest {pay} in {w} is how much"],
        "held": ["Among {people} in {w}, what is the top {pay}", "What's the largest {pay} anyone in {w} gets"],
    },
    "since_after": {
        "train": ["How many {people} were hired after {d}", "How many {people} joined after {d}"],
        "dev": ["How many {people} started later than {d}", "Count the {people} who started after {d}", "How many {people} came on board after {d}", "After {d}, how many {people} were taken on"],
        "held": ["How many of our {people} joined later than {d}", "What number of {people} was hired since {d}", "How many {people} have started since {d}"],
    },
    "stock_of": {
        "train": ["How many {thing} are in stock", "How many units of {thing} are in stock"],
        "dev": ["How many {thing} are left", "What is the stock of {thing}", "How many units of {thing} do we still have", "How many of the {thing} are available", "Current stock level for {thing}"],
        "held": ["How many {thing} do we have in stock", "What quantity of {thing} is left in stock", "Do we have {thing} in stock, and how many"],
    },
    "price_of": {
        "train": ["What is the price of {thing}", "How much does {thing} cost"],
        "dev": ["What does {thing} cost", "How much do we charge for {thing}", "Tell me the price of the {thing}", "How expensive is {thing}"],
        "held": ["What's the price of one {thing}", "How much for a {thing}", "What would a {thing} cost me"],
    },
    "count_kind": {
        "train": ["How many {things} are in the {kind} {sort}", "How many {kind} {things} are there"],
        "dev": ["Number of {things} of the {kind} {sort}", "How many {things} belong to the {kind} {sort}", "How many {things} count as {kind}", "Count the {kind} {things}"],
        "held": ["How many {things} fall under {kind}", "What's the count of {kind} {things}"],
    },
    "cheapest": {
        "train": ["What is the cheapest {one}", "Which {one} is the cheapest"],
        "dev": ["Which {one} costs the least", "Name the least expensive {one}", "Which {one} has the lowest price"],
        "held": ["Which of the {things} is cheapest", "What {one} has the smallest price"],
    },
    "events_of": {
        "train": ["How many {events} did {customer} make", "How many {events} are there for {customer}"],
        "dev": ["What is the number of {events} by {customer}", "How many {events} did {customer} have", "Count the {events} of {customer}", "How many {events} are under the name {customer}"],
        "held": ["How many {events} has {customer} got", "What number of {events} belongs to {customer}", "How often does {customer} show up in the {events}"],
    },
    "events_state": {
        "train": ["How many {events} are {state}", "How many {state} {events} are there"],
        "dev": ["Number of {events} that are {state}", "Count the {events} marked {state}", "How many of the {events} are {state}", "How many {events} have the status {state}"],
        "held": ["How many {events} are currently {state}", "What's the number of {state} {events}"],
    },
    "events_month": {
        "train": ["How many {events} were there in {month}", "How many {events} happened in {month}"],
        "dev": ["Number of {events} in {month}", "Count the {events} from {month}", "How many {events} date from {month}", "In {month}, how many {events} were there"],
        "held": ["How many {events} were recorded during {month}", "What's the number of {events} in {month}"],
    },
    "sold_of": {
        "train": ["How many units of {thing} were ordered in total", "How many {thing} were ordered altogether"],
        "dev": ["How many pieces of {thing} were {done}", "In total, how many units of {thing} were sold", "How many units of {thing} have been ordered overall", "What is the total number of {thing} units ordered"],
        "held": ["How many units of {thing} were ordered altogether", "Total units of {thing} sold", "What quantity of {thing} has been ordered in all"],
    },
    "multi_price_money": {
        "train": ["What is the price of {thing} in {t}", "Prices are in euros. How much is {thing} in {t}", "Convert the price of {thing} to {t}"],
        "dev": ["Our prices are in euros. What does {thing} cost in {t}", "All our prices are in euros; how much would {thing} be in {t}", "How many {t} does one {thing} cost, given that prices are in euros", "Express the price of {thing} in {t}"],
        "held": ["Prices being in euros, what is the cost of {thing} in {t}", "What does one {thing} cost in {t}", "How much is a {thing} if I pay in {t}"],
    },
    "multi_pay_money": {
        "train": ["What is the total {pay} of {g} in {t}", "Convert the {pay} of {person} to {t}"],
        "dev": ["Our {pay} figures are in euros. What is the total {pay} in {g} in {t}", "How much is {person}'s {pay} in {t}", "Salaries are paid in euros. What is the {pay} of {person} in {t}"],
        "held": ["Express the {pay} of {person} in {t}", "What does {person} earn in {t}", "Sum of all {pay} in {g}, in {t}"],
    },
    "multi_hired_weekday": {
        "train": ["Which weekday was {k} days after {person} was hired", "On which weekday was {person} hired"],
        "dev": ["What day of the week was it when {person} was hired", "On which day of the week did {person} start", "What weekday was it {k} days after {person} joined"],
        "held": ["{person} was hired on which weekday", "What day of the week was it {k} days after {person} was hired"],
    },
    "multi_height_unit": {
        "train": ["{q} in {u}"],
        "dev": ["{q}, in {u}", "{q}, expressed in {u}", "{q} in {u}"],
        "held": ["{q} when measured in {u}", "In {u}, {q}"],
    },
    "multi_years_ago": {
        "train": ["How old is {t}", "What is the age of {t} in years", "How many years ago was {t} {verb}"],
        "dev": ["How many years have passed since {t} was {verb}", "How many years is it since {t} was {verb}", "It is how many years since {t} was {verb}"],
        "held": ["{t} was {verb} how many years ago", "How long ago, in years, was {t} {verb}"],
    },
    "multi_times_unit": {
        "train": ["What is {a} times {b} {f} in {t}", "Convert {a} times {b} {f} to {t}"],
        "dev": ["How many {t} are {a} times {b} {f}", "Multiply {b} {f} by {a} and give it in {t}", "What is the product of {a} and {b} {f}, in {t}"],
        "held": ["{a} times {b} {f} is how much in {t}", "Take {b} {f}, multiply by {a}, and express it in {t}"],
    },
    "multi_sum_money": {
        "train": ["Convert the sum of {a} and {b} {f} to {t}", "What is {a} plus {b} {f} in {t}"],
        "dev": ["How many {t} are {a} plus {b} {f}", "Add {a} and {b} {f} and convert that to {t}", "How much in {t} is the sum of {a} and {b} {f}"],
        "held": ["What do {a} and {b} {f} together make in {t}", "Turn the sum of {a} and {b} {f} into {t}"],
    },
    "multi_fahrenheit": {
        "train": ["What was the highest temperature in {w} on {d}, in degrees Fahrenheit", "How hot did it get in {w} on {d} in Fahrenheit"],
        "dev": ["In degrees Fahrenheit, what was the highest temperature in {w} on {d}", "What was the maximum in {w} on {d} when expressed in Fahrenheit", "How warm was {w} on {d} in degrees Fahrenheit", "Give the high for {w} on {d} in °F"],
        "held": ["How hot was it in {w} on {d}, in Fahrenheit please", "Tell me the highest temperature for {w} on {d} converted to Fahrenheit"],
    },
    "multi_warmer": {
        "train": ["How many degrees warmer was the highest temperature in {w} than in {v} on {d}", "What is the difference between the highest temperature in {w} and in {v} on {d}"],
        "dev": ["By how many degrees did the highest temperature in {w} exceed that in {v} on {d}", "How much warmer was it in {w} than in {v} on {d}", "On {d}, how many degrees hotter was {w} than {v}", "What was the gap between the highest temperatures of {w} and {v} on {d}"],
        "held": ["By how much was {w} warmer than {v} on {d}", "How many degrees separate the highest temperatures of {w} and {v} on {d}"],
    },
    "multi_headcount": {
        "train": ["What is {a} times the combined headcount of {g} and {h}", "What is the combined number of {people} in {g} and {h}"],
        "dev": ["How many {people} work in {g} and {h} together", "How many {people} do {g} and {h} have together", "Multiply the combined number of {people} of {g} and {h} by {a}"],
        "held": ["What is the total headcount of {g} and {h} together", "{a} times the number of {people} in {g} and {h} combined"],
    },
    "multi_pct_days": {
        "train": ["What is {p}% of the number of days between {d} and {e}"],
        "dev": ["Compute {p} percent of the days between {d} and {e}", "How much is {p}% of the number of days from {d} to {e}", "Take the number of days from {d} to {e} and multiply it by {a}"],
        "held": ["Find {p} percent of the number of days separating {d} and {e}", "{a} times the number of days between {d} and {e}"],
    },
    "multi_more_pay": {
        "train": ["How much more does {person} earn than {other}", "What is the difference between the {pay} of {person} and {other}"],
        "dev": ["By how much does the {pay} of {person} exceed that of {other}", "How much higher is the {pay} of {person} than that of {other}", "What is the gap between {person}'s and {other}'s {pay}"],
        "held": ["How much more is {person} paid than {other}", "By how much is the {pay} of {person} above the {pay} of {other}"],
    },
}  # fmt: skip

CHAT = {
    "train": ["Hello", "Good morning!", "Thank you so much", "Tell me a joke", "Write a poem about the sea", "What is the meaning of life?", "Who are you?", "Explain what an adjective is", "Suggest a name for my cat", "How are you today?", "Give me some advice on studying", "What should I cook tonight?", "Write a birthday message for a friend", "Is it better to be early or late?", "Describe a perfect holiday", "Compose a limerick", "What makes a story sad?", "Recommend a hobby", "Why is the sky blue?", "How do I learn to swim?", "Summarise the plot of a fairy tale", "Translate good evening into French", "Who wrote the play about the Danish prince?", "Give me three tips for sleeping well", "Write two lines about winter", "I feel a little sad today", "Can you keep a secret?", "What rhymes with orange?", "Explain irony to a child", "How do plants grow?", "Please proofread my letter", "Tell me a story with 3 characters", "List 5 adjectives for a happy person", "Name 2 famous paintings", "I have 12 cousins and they all talk at once", "She is one in a million", "Give me 10 reasons to smile", "What does the phrase once in a blue moon mean?", "He ran like the wind", "It rained on my parade", "My heart feels cold", "What is a warm welcome?", "Why do people say time is money?", "What does to be paid in kind mean?", "How does one become a nurse?", "What makes a good employee?", "Write a slogan for a bakery", "Order matters in life, doesn't it?", "Who is your favourite author?", "Is Monday really that bad?", "What happens on a first date?", "Tell me about love at first sight", "Why are weekends so short?", "Give 110 percent, they say. Do you agree?", "What is the difference between love and friendship?", "Sum up the moral of that tale", "How long is forever?", "How deep is your love?", "Is the pen mightier than the sword?", "Why did the chicken cross the road?", "Write a short note to my landlord", "What is the best way to say sorry?", "Talk like a pirate", "What does the idiom worth its weight in gold mean?", "Invent a title for a film about {n} friends", "Write a haiku in {n} lines", "Name a song with the number {n} in it", "I love {n} things about spring", "Give me {n} ideas for a party", "My lucky number is {n}", "We are {n} people at the table, what a crowd", "Tell me a riddle about a mile", "Describe the colour of money", "Compare apples and oranges in a funny way", "Why do they call it a stone's throw?", "What is a foot in the door?", "An inch is as good as a mile, what does that mean?", "How would you describe the wind to someone?", "Write a diary entry for a rainy afternoon", "Make up a superhero who controls the temperature", "Is it rude to ask about someone's salary?", "What does a manager do all day?", "Give me an example of a metaphor", "What is your opinion on remote work?", "How do I write a good product description?", "Should I change my job?", "What's a good response to criticism?", "Explain the word department to a child", "Why do we celebrate birthdays?"],
    "dev": ["Hi, nice to meet you", "Sing me a lullaby", "What makes bread rise?", "Draft an apology to my neighbour", "Tell me something interesting", "Who would win, a bear or a shark?", "Think of a {n}-word story", "I bought {n} balloons for the party", "What is meant by a mile-high dream?", "Does money buy happiness?", "Is rain romantic?", "How do I tell my boss I am ill?", "Give a synonym of cheap", "Why do people collect stamps?", "Name {n} things that make you laugh", "What is a cold reception?", "Describe the weather in your dreams", "How do customers feel about queues?", "Why is Friday everyone's favourite?", "Explain why minus times minus feels odd to pupils", "Hey, what's up?", "Could you cheer me up a little?", "Please write a thank-you card for my aunt.", "What do you think about modern art?", "Think up a nickname for a slow turtle.", "Which is better, tea or coffee?", "Rephrase this politely: go away.", "What is the moral of the tortoise and the hare?", "Give me a tongue twister.", "How can I make new friends?", "I walked {n} dogs yesterday and it was wonderful.", "Come up with {n} names for a boat.", "What does it mean to go the extra mile?", "Explain the saying a penny for your thoughts.", "Why do people fear the number {n}?", "Is Sunday a good day to start a diet?", "Do you prefer summer or winter?", "Write a dramatic line about a storm.", "What does it feel like to be the tallest in class?", "My teacher always says practice makes perfect.", "How should a pilot dress for a wedding?", "Describe the smell of old books.", "Invent a proverb about dates, the fruit.", "What is a plus one at a party?", "Make a pun with the word pound.", "What are the pros and cons of being famous?", "Let us talk about feelings.", "Help me plan a surprise for my partner.", "How do you spell accommodate?", "Tell me why cats purr.", "What is the secret of a long marriage?", "Write one sentence in the style of an old sailor.", "Is it polite to divide a cake unevenly?", "Add some drama to this sentence: the door closed.", "Give me a metaphor for rising prices.", "Was the wind on your side today?", "Two heads are better than one, right?", "Convert me into a believer with a short speech.", "How much wood would a woodchuck chuck?", "Which month is the most poetic?"],
    "held": ["Hey there, friend!", "Can you write me a limerick about cheese?", "What's your favourite film?", "I am bored, entertain me.", "Please write a cover letter for a gardener.", "Explain sarcasm to me.", "What are good manners?", "Think of a rhyme for silver.", "Tell me {n} facts about kindness.", "My {n} cats ignore me.", "What would you do with a million wishes?", "Is patience a virtue?", "Give me a pep talk.", "Describe a quiet street at night.", "How do I apologise to a customer nicely?", "What does under the weather mean?", "Write a toast for a wedding.", "Why are {n} and luck connected?", "Which animal would make the best boss?", "What does the phrase add fuel to the fire mean?", "Who should pay on a date?", "What should I name my new sailing boat?", "How would you price happiness?", "Why do books smell so good?", "Explain photosynthesis in simple words.", "What is the plural of mouse?", "Draft a friendly reminder to my flatmate.", "Do you believe in ghosts?", "How hot is too hot for a romance?", "Divide and conquer: is that good advice?", "Are we there yet?", "What is a good icebreaker for a team?", "How can I sleep better?", "Is there life on other planets?", "Write a product review for an invisible umbrella.", "Who is the fairest of them all?", "Let's play a word game.", "How long should a love letter be?"],
}  # fmt: skip
OPENINGS = {
    "train": ["", "", "", "", "Please: ", "Can you tell me: ", "Quick question: "],
    "dev": ["", "", "", "I need to know: "],
    "held": ["", "", "", "Hi! ", "I'd like to know: ", "One more thing: "],
}
CLOSINGS = {"train": ["?", "?", ".", ""], "dev": ["?", ".", ", please"], "held": ["?", "?", ".", ", please?", ""]}
