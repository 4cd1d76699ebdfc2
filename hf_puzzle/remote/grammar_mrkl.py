"""The grammar of questions as data (MRKL, arXiv 2205.00445): one rule a line, read by `chart_mrkl`.

`Category <- pattern : meaning argument ...`; capitalised words are categories, `[x]` is optional, `(a|b)` a choice,
`{NAME}` a part named above, a final `!` a rule that is used only where nothing else explains all words. Words that
`words_mrkl.DELETED` lists are gone before a pattern sees them. To add a wording, add a line, and its test: a phrase for
a day in `grammar_dates_mrkl.DAYS` is then read in questions, by every expert, and in slots. A meaning that others make
up is written out, `pct_of($2, in_unit($0, $1))`; only what they cannot say needs a function.

Lexical categories: Number Integer Ordinal Day Year Month Weekday Holiday Date Clock Unit Cur Sign CalUnit Place Title
Value Table Noun Unknown. Values climb Atom < Pow < Neg < Prod < Sum < Val as operators bind.
"""

from .grammar_data_mrkl import LOOKUPS, TABLES
from .grammar_dates_mrkl import DATES, DAYS


NUMBERS = """
PLUS = + | plus | added to | is added to
RAISED = increased by | is increased by | is raised by | raised by
LOWERED = decreased by | reduced by | diminished by | is decreased by | is reduced by | is lowered by | lowered by
MINUS = - | minus | less | take away | subtracting
TIMES = '*' | x | times | multiplied by | multiplied with | is multiplied by | is multiplied with | lots of | groups of | sets of | batches of | times by
PEOPLE = people|persons|friends|children|groups|parts|ways|shares|equal parts|equal shares|equal groups|portions|kids|guests|players|members|boxes|piles
OVER = / | divided by | over | divided through | is divided by
SHARED = shared out among | shared equally between | shared evenly between | shared evenly among | shared among | shared by | shared between | split evenly between | split between | split among | split by | shared equally among | divided into | split into | divided among | divided between | divided equally among | divided evenly among | split equally among | distributed over | is shared by | is split evenly between | is split between | is shared equally among | is shared out among | is divided among | is split into
PAID = discount|reduction|rebate|off|cut
TAKE = drop|subtract|subtracting|deduct|deducting|take|taking|take away|taking away|remove|removing
WITHOUT = subtracted|deducted|taken away|taken off|removed|taken out
TOGETHER = sum | total | total sum | grand total | combined total | combined sum

Sum <- Prod
Sum <- Sum {PLUS} Prod : op +
Sum <- Sum {MINUS} Prod : op -
Sum <- Sum {RAISED} Prod : by_amount +
Sum <- Sum {LOWERED} Prod : by_amount -
Sum <- Sum ({RAISED}|{PLUS}|including|incl|plus an additional|plus an extra) Charge : pct_change +
Sum <- Sum ({LOWERED}|{MINUS}) Charge : pct_change -
Sum <- Neg (less than|fewer than|smaller than) Neg : op/10 -
Sum <- Neg (more than|greater than|on top of|larger than|bigger than) Neg : op +
Sum <- Neg [is] (subtracted from|taken from|deducted from|taken away from|removed from) Prod : op/10 -
Sum <- Neg with Neg {WITHOUT} : op -
Sum <- Neg with Neg added : op +
Sum <- Neg with Charge added [on top|on] : pct_change +
Sum <- Neg with Charge ({WITHOUT}) : pct_change -
Sum <- Neg with [a|an] Charge {PAID} : pct_change -
Sum <- Sum {MINUS} Charge {PAID} : pct_change -
Sum <- Neg [be] after [a|an] Charge (rise|increase|raise|growth|gain) : pct_change +
Sum <- Neg [be] after [a|an] Charge {PAID} : pct_change -
Sum <- Neg [be] after [a|an] (rise|increase|raise|growth|gain) of Charge : pct_change +
Sum <- Neg [be] after [a|an] (reduction|decrease|discount|drop|cut|fall) of Charge : pct_change -
Sum <- Neg with [a|an] (discount|reduction) of Charge : pct_change -
Sum <- Neg after (taking off|deducting|subtracting|removing) Charge : pct_change -
Sum <- Neg after adding Charge : pct_change +
Sum <- Neg (goes up|rises|grows|went up|increases) by Charge : pct_change +
Sum <- Neg (goes down|falls|drops|went down|decreases|shrinks) by Charge : pct_change -
Prod <- Neg {SHARED} Neg [{PEOPLE}] : op /
Prod <- Neg taken Neg times : op *
Sum <- Charge (on top of|added to|more than) Neg : pct_change/10 +
Sum <- Charge (off|less than|off of) Neg : pct_change/10 -
Sum <- Neg at Charge (off|discount) : pct_change -
Prod <- Neg
Prod <- Prod {TIMES} Neg : op *
Prod <- Prod {OVER} Neg : op /
Prod <- Prod '//' Neg : op //
Prod <- Prod (mod|modulo|%) Neg : op %
Prod <- Bare Group : op *
Bare <- Number
Group <- '(' Sum ')'
Neg <- Pow
Neg <- (-|minus|negative) Neg : negative
Neg <- + Neg
Neg <- Charge [out] of Neg : pct_of
Neg <- Charge share of Neg : pct_of
Neg <- Number of Neg : fraction_of
Neg <- (twice|double|two times|2 times) Neg : op(#2, $0, *)
Neg <- (thrice|triple|three times) Neg : op(#3, $0, *)
Neg <- quadruple Neg : op(#4, $0, *)
Neg <- Number times as (much|many|big|large|long|high|great) as Neg : op *
Neg <- (twice|double) as (much|many|big|large|long|high|great) as Neg : op(#2, $0, *)
Sum <- Number of Number {PLUS} Number : part_of_op +
Sum <- Number of Number {MINUS} Number : part_of_op -
ROOT = square root|sqrt|squareroot
Prod <- {ROOT} of Number {TIMES} Number : root(op($0, $1, *), #2)
Prod <- {ROOT} of Number {OVER} Number : root(op($0, $1, /), #2)
Pow <- Atom
Pow <- Atom ('^'|'**'|raised to) Neg : op **
Pow <- Atom squared : op($0, #2, **)
Pow <- Atom cubed : op($0, #3, **)
Pow <- Atom [raised] to power [of] Neg : op **
Pow <- Atom [raised] to Neg power : op **
Pow <- Atom [raised] to Ordinal [power] : op($0, n($1), **)
Atom <- Number
Atom <- Group
Atom <- Func
Func <- {TOGETHER} of List : fold +
Func <- product of List : fold *
Func <- product of Neg (with|by) Neg : op *
Func <- (quotient|ratio) (of|between) List : fold /
Func <- (quotient|result) (when|of|if) Neg [is] divided by Neg : op /
Prod <- Number by Number : op * !
Val <- how many Number (s|'s) (are|are there|fit|go) (in|into) Sum : op/10 /
Val <- List (make|makes|give|gives|is|are) (how much|what|how many) : fold +
Func <- difference (between|of|in|from) List : difference
Func <- difference between Neg and Neg : difference(list($0, $1))
Func <- ratio of Neg to Neg : op /
Func <- (average|mean|arithmetic mean|average value|mean value) of List : average
Func <- average List : average
Func <- median [value] [of] List : median
Func <- geometric mean of List : geometric_mean
Func <- harmonic mean of List : harmonic_mean
Func <- (largest|biggest|greatest|highest|maximum|max) [number|value] (of|among|out of|in|between) List : extreme max
Func <- (smallest|least|lowest|minimum|min) [number|value] (of|among|out of|in|between) List : extreme min
Func <- (lcm|least common multiple|lowest common multiple|smallest common multiple|least common denominator|lowest common denominator) of List : common lcm
Func <- (gcd|hcf|greatest common divisor|highest common factor|greatest common factor|largest common factor) of List : common gcd
Func <- (square root|sqrt|squareroot) [of] Atom : root($0, #2)
Func <- (cube root|third root) [of] Atom : root($0, #3)
Func <- Ordinal root of Atom : root/10
Func <- square of Atom : op($0, #2, **)
Func <- cube of Atom : op($0, #3, **)
Func <- (reciprocal|inverse) of Atom : op(#1, $0, /)
Func <- Integer (factorial|'!') : factorial
Func <- factorial of Integer : factorial
Func <- Integer choose Integer : choose
Func <- (log|logarithm) base Integer of Neg : log_base
Func <- remainder (of|when|if|from|after) Neg (divided by|is divided by|over|by|/) Neg : op %
Val <- what (remains|is left|is left over) when Neg is divided by Neg : op %
Val <- what (remains|is left|is left over) (when|if|after) (i|you|we) divide Neg by Neg : op %
Func <- remainder (of|when|if|from|after) dividing Neg by Neg : op %
Val <- [what|which] remainder (does|do|would|will) Sum leave (when|if) [it is] divided by Sum : op %
Func <- [size of] [a] tip (on|for) [a|an] Val [bill|meal|check|dinner|lunch|tab|order|purchase] (at|of|with) Charge : pct_of/10
Func <- Charge (on|for) [a|an] Val (bill|meal|check|dinner|lunch|tab|order|purchase) : pct_of
Func <- Charge on Val : pct_of
Func <- Charge (be|come to) (on|for|of) [a|an] Val [bill|meal|check|dinner|lunch|tab|order|purchase] : pct_of
Func <- [size of] [a] tip of Charge (on|for) [a|an] Val [bill|meal|check|dinner|lunch|tab|order|purchase] : pct_of
Top <- Neg (bill|meal|purchase|order) (with|plus) Charge : pct_change +
Func <- [sales|service] (tax|vat|gst|interest|commission|charge|fee|duty|gratuity) on Val (at|of) Charge : pct_of/10
Pct <- Number (%|percent|per cent|pct|percentage) : percent
Charge <- [a|an] Pct
Charge <- Levy
Levy <- [a|an] Pct [sales|service|value added] (tip|tax|vat|gst|interest|commission|charge|fee|duty|gratuity|markup|surcharge|extra|increase)
Sum <- Sum [be] with Levy : pct_change +
Sum <- Sum {PLUS} Levy {PLUS} Levy : pct_change($0, charges($1, $2), +)
Val <- Sum as [a|an] (percent|percentage|per cent) : op(number($0), #100, *)
Prod <- Prod {TIMES} Pct : pct_of/10
Prod <- Pct {TIMES} Neg : pct_of
Prod <- Prod {OVER} Pct : over_pct
List <- Neg (and|,|, and|or|, or|with) Neg : list
List <- Neg (and|,|, and|or|, or|with) Sign2 : list
Sign2 <- Neg / Neg : op /
Sign2 <- Neg '*' Neg : op *
List <- Neg , List : list
List <- Pair [,] (and|or) Neg : list
List <- Neg (from|to) Neg : list !
List <- (numbers|values|figures|amounts|integers) [:] List

Val <- Sum
Val <- Share
Share <- what (percent|percentage|per cent|%) of Sum is Sum : op(number(op($1, $0, /)), #100, *)
Share <- (percent|percentage|per cent|%) of Sum that is Sum : op(number(op($1, $0, /)), #100, *)
Share <- (percent|percentage|share|fraction) that Sum is of Sum : op(number(op($0, $1, /)), #100, *)
Share <- Sum is what (percent|percentage|per cent|%) of Sum : op(number(op($0, $1, /)), #100, *)
Share <- Sum as [a|an] (percent|percentage|per cent) of Sum : op(number(op($0, $1, /)), #100, *)
Share <- (what|how many) (percent|percentage|per cent|%) is Sum [out] of Sum : op(number(op($0, $1, /)), #100, *)
Share <- Sum out of Sum (in percent|as a percentage|as a percent|as percent|in percentage) : op(number(op($0, $1, /)), #100, *)
Val <- Sum is Charge of (what|what number|which number) : over_pct
Share <- how many percent [of] Sum is Sum : op(number(op($1, $0, /)), #100, *)
Share <- [by] [what] (percent|percentage|per cent|relative) (change|increase|growth|rise) (from|between|of) Sum (to|and) Sum : op(op(number(op($1, $0, /)), #1, -), #100, *)
Share <- [what] (percent|percentage|per cent) (decrease|drop|fall|decline|reduction) (from|between) Sum (to|and) Sum : op(op(#1, number(op($1, $0, /)), -), #100, *)
Share <- by (what|how many) (percent|percentage|per cent) (does|did|has|is) [it] (increase|increased|grow|grown|grew|rise|risen|rose|go up|gone up|went up) from Sum to Sum : op(op(number(op($1, $0, /)), #1, -), #100, *)
Share <- by (what|how many) (percent|percentage|per cent) (does|did|has|is) [it] (decrease|decreased|fall|fallen|fell|drop|dropped|decline|declined|go down|gone down|went down|shrink) from Sum to Sum : op(op(#1, number(op($1, $0, /)), -), #100, *)
Went <- [my|our|his|her|their|this|that] Noun [Noun] (went|went up|rose|increased|grew|climbed|jumped|changed|has risen|has gone up|has grown|has increased)
Went <- if [a|an] Noun [Noun] (goes|goes up|rises|increases|grows|climbs|changes)
Sank <- [my|our|his|her|their|this|that] Noun [Noun] (went|went down|fell|dropped|decreased|sank|shrank|has fallen|has dropped|has gone down)
Sank <- if [a|an] Noun [Noun] (goes|goes down|falls|drops|decreases|shrinks)
Share <- Went from Sum to Sum [.|,|;] [and] [by] (what|how many) (percent|percentage|per cent) (did|has|does|is) (it|that) (rise|risen|increase|increased|grow|grown|go up|gone up|climb|climbed|change|changed) : op(op(number(op($2, $1, /)), #1, -), #100, *)
Share <- Sank from Sum to Sum [.|,|;] [and] [by] (what|how many) (percent|percentage|per cent) (did|has|does|is) (it|that) (fall|fallen|decrease|decreased|drop|dropped|go down|gone down|sink|shrink) : op(op(#1, number(op($2, $1, /)), -), #100, *)
CHANGE = [what is|what was|how much is] (percentage|percent|relative) (change|increase|rise|growth|decrease|drop)|(what is|what was|how much is|how much was) (change|increase|rise|growth|decrease|drop) (in percent|in percentage|as a percentage|as percentage|in %)
Share <- (Went|Sank) from Sum to Sum [.|,|;] {CHANGE} : op(op(number(op($2, $1, /)), #1, -), #100, *)
Share <- by (what|how many) (percent|percentage|per cent) is Sum {BIG} than Sum : op(op(number(op($0, $1, /)), #1, -), #100, *)
Share <- by (what|how many) (percent|percentage|per cent) is Sum {SMALL} than Sum : op(op(#1, number(op($0, $1, /)), -), #100, *)
Val <- Sum rounded to Integer (decimal|decimals|places|decimal places|decimal place|digits) : rounded
Val <- Sum to Integer (decimals|decimal places|places|decimal place) : rounded
Top <- (if|when) (i|you|we) divide Sum by Sum [,] (what is left over|what is left|what is remainder|what remains) : op %
Val <- round Sum to Integer (decimal|decimals|places|decimal places|decimal place) : rounded
Val <- round Sum [to (nearest|closest) (whole number|integer|whole)] : rounded 0
Val <- Sum rounded [to (nearest|closest) (whole number|integer|whole)] : rounded 0
Val <- add Neg (to|with) Sum : op/10 +
Val <- add Neg and Sum : op +
Val <- (add|sum|total|total up|combine|tally up|tot up|add together|adding|adding up|summing) List : fold +
Val <- put List together : fold +
Val <- List (summed|added|added together|added up|combined|in all|altogether|in total|summed up|together) : fold +
Val <- what (do|does|would|will) List (add up to|sum to|come to|make|total|give|come to when added|make together|give together|add to|total up to) : fold +
Val <- how much (do|does|would|is) List (come to|make|come to when added|make together|come to together|add up to|total|come to in all) : fold +
Val <- what (total|sum) do List (give|make|come to|give together) : fold +
Val <- Neg and Neg more : op +
Val <- what (must|should|do i|do you|needs to|has to|would i) [have to] (be added to|add to) Sum to (get|make|reach|obtain|give) Sum : op/10 -
Val <- what (must|should|do i|do you|needs to|has to) [have to] (multiply) Sum by to (get|make|reach|obtain) Sum : op/10 /
Val <- by how much is Sum (above|over|more than|higher than|greater than|larger than) Sum : op -
Val <- how much is Sum (above|over|more than) Sum : op -
Val <- by what amount is Sum (larger|bigger|greater|more|higher) than Sum : op -
Val <- by (how much|what amount) does Sum (differ from) Sum : difference(list($0, $1))
Val <- how far apart are Sum and Sum : difference(list($0, $1))
Val <- (add|put) Charge (to|on top of|onto|on) Sum : pct_change/10 +
Val <- (add|sum) up List : fold +
Val <- add List (together|up) : fold +
Val <- {TAKE} Neg [away] from Sum : op/10 -
Val <- from Sum [,] {TAKE} Sum : op -
Val <- (take|knock|deduct) Neg off [of] Sum : op/10 -
Val <- adding Neg to Sum : op +
Val <- Charge added to Sum : pct_change/10 +
Val <- (taking|knocking) Charge off Sum : pct_change/10 -
Val <- (take|knock) Charge off [of] Sum : pct_change/10 -
Val <- (take|deduct|subtract) Charge from Sum : pct_change/10 -
Val <- (multiply|times|multiplying) Sum (by|with|and|times) Sum : op *
Val <- multiply List [together] : fold *
Val <- (divide|dividing) Sum (by|with|through) Sum : op /
Val <- (multiply|multiplying) Atom by itself : op($0, #2, **)
Val <- (share|shared|share out|distribute) Neg (over|out among) Neg {PEOPLE} : op /
Val <- one share when Neg is shared (by|among|between) Neg : op /
Val <- (split|divide|share|distribute) Neg [equally|evenly] (between|among|amongst|by|into|over|across) Integer [equal] {PEOPLE} [equally|evenly] : op /
Val <- what (remains|is left) of Sum after (taking off|a reduction of|a discount of|deducting|subtracting) Charge : pct_change -
Val <- divide Neg into Sum : op/10 /
Val <- (split|divide|share) Neg [Noun] [equally|evenly|fairly] (between|among|amongst|by|into|with|across) Integer [equal|Noun] [Noun|parts|ways] [equally|evenly|fairly] : split
Val <- (split|divide|share) Qty [equally|evenly|fairly] (between|among|amongst|by|into|across) Integer [equal|Noun] [Noun|parts|ways] [equally|evenly|fairly] : split
Close <- [.|:|,] how (much|many) [Noun] (does|do|will|would|should) (each|everyone|everybody|each person|each of them|each one) [Noun] (get|receive|pay|have|owe|end up with)

Val <- (raise|take|bring) Atom to power [of] Neg : op **
Val <- raise Atom to Ordinal power : op($0, n($1), **)
Val <- (square|power two of) Atom : op($0, #2, **)
Val <- cube Atom : op($0, #3, **)
Val <- (halve) Sum : op(#1/2, $0, *)
Val <- negate Sum : negative
Val <- (increase|raise|grow) Sum by Charge : pct_change +
Val <- (decrease|reduce|lower|discount|cut|shrink) Sum by Charge : pct_change -
Val <- (increase|raise) Sum by Neg : by_amount +
Sum <- {TOGETHER} of Neg and Neg (times|x|'*') Neg : op($0, op($1, $2, *), +)
Sum <- {TOGETHER} of Neg and Neg over Neg : op($0, op($1, $2, /), +)
Val <- (decrease|reduce|lower|cut|diminish) Sum by Neg : by_amount -
Val <- (how many times|how often) (does|do|will|can|would) Sum (go|fit|goes) (into|in|inside) Sum : op/10 /
Val <- (how many times|how often) (is|are) Sum (contained|included) in Sum : op/10 /
Val <- [by] how much (bigger|larger|greater|higher|heavier|longer|taller|wider|older|faster|hotter|warmer) is Sum than Sum : op -
Val <- how much (smaller|less|lower|lighter|shorter|fewer|colder|cooler|slower|younger) is Sum than Sum : op/10 -
Val <- how much more is Sum than Sum : op -
Val <- by (how much|what amount) does Sum exceed Sum : op -
WHATNUMBER = x|y|n|what number|which number
Eq <- {WHATNUMBER} (+|plus) Sum (=|is|equals|gives|makes) Sum : op/10 -
Eq <- {WHATNUMBER} (-|minus) Sum (=|is|equals|gives|makes) Sum : op/10 +
Eq <- {WHATNUMBER} ('*'|times|multiplied by) Sum (=|is|equals|gives|makes) Sum : op/10 /
Eq <- {WHATNUMBER} (/|divided by) Sum (=|is|equals|gives|makes) Sum : op/10 *
Val <- Eq
Eq <- Number (x|y|n) (=|is|equals|gives|makes) Sum : op/10 /
Eq <- Number (x|y|n) (+|plus) Sum (=|is|equals|gives|makes) Sum : op(op($2, $1, -), $0, /)
Eq <- Number (x|y|n) (-|minus) Sum (=|is|equals|gives|makes) Sum : op(op($2, $1, +), $0, /)
Val <- (what is|find) (x|y|n) (if|when|given) Eq
Val <- solve Eq [for (x|y|n)] : same
Val <- [if] Eq [,|.|;|:] [and|then] (what is|find|solve for|calculate) (x|y|n) : same
Val <- [if] (i|you|we) pay [with] Sum for (something|an item|a thing|a purchase) (that costs|costing|of) Sum [,] how much change (do|will|should) (i|you|we) (get|receive|get back) : op -
Val <- Number (glasses|cups|bottles|servings|portions|pieces|bags|boxes|cans|jugs|buckets|packs|packets) of Qty [each] : op *
Item <- Number Noun [Noun] (at|for|costing|that cost) Neg (each|apiece) : each_at
Item <- Number Unit [of Noun] (at|for) Neg (a|an|per|each|every) Unit : at_rate
Item <- Item (and|,|, and|plus) Item : op +
Val <- Item
Val <- (split|divide|share) [a|an] Qty [bill|check|cost|tab] [in|into|by] Integer ways [equally|evenly] : op /

IT = it|that|this|result|total|everything|all|what you get|answer|outcome|sum|difference|product|quotient|that number|what is left|that result|result of that|what comes out
Step <- add Sum [to {IT}] : step +
Step <- (subtract|take away|deduct|remove|take) Sum [from {IT}] : step -
Step <- multiply [{IT}] by Sum : step *
Step <- times {IT} by Sum : step *
Step <- (divide) [{IT}] by Sum : step /
Step <- double [{IT}] : step(#2, *)
Step <- triple [{IT}] : step(#3, *)
Step <- halve [{IT}] : step(#1/2, *)
Step <- square [{IT}] : step(#2, **)
Step <- [take] square of {IT} : step(#2, **)
Step <- [take] (root|square root) of {IT} : step(#1/2, **)
Step <- [take] half of {IT} : step(#1/2, *)
Step <- cube [{IT}] : step(#3, **)
Step <- (increase|raise) {IT} by Charge : step +
Step <- (decrease|reduce|lower) {IT} by Charge : step -
Step <- add Charge : step +
Step <- (take off|take|subtract|deduct) Charge [off] : step -
Seq <- (start|begin) (with|from|at) Sum
Seq <- (take|i think of) Sum
Seq <- [first|take] Val
Chain <- Seq [and|.|,|;] [and] [then|next|after that|now|finally|afterwards|and then] Step : then
Chain <- Chain (and|.|,|;) [and] [then|next|after that|now|finally|afterwards|and then] Step : then
Chain <- Chain (then|next|after that|now|finally|afterwards) Step : then
Chain <- Seq [and|.|,|;] [and] [then] [what is|how much is|find|calculate] Charge of {IT} : pct_of/10
Chain <- Sum (all|all of that|all of it|whole thing|whole lot|everything|all together|whole|, then) {OVER} Sum : op /
Chain <- Sum (all|all of that|all of it|whole thing|whole lot|everything|all together|whole|, then) {TIMES} Sum : op *
Chain <- Sum , then {PLUS} Sum : op +
Chain <- Sum , then {MINUS} Sum : op -
Top <- Chain
"""

QUANTITIES = """
TO = to | in | into | as | = | expressed in | converted to | converted into | measured in | in terms of | given in | when expressed in | when measured in | using | over to | over into | and express it in | and give it in | and convert that to | and convert it to | expressed as | rewritten in | stated in | and express that in | and give that in | and convert result to | and convert result into | and give answer in | and give result in | and convert to | and convert into | and give it as | and state it in | and express result in
HOLDS = dinner|meal|bill|lunch|shirt|jacket|item|book|ticket|purchase|drum|tank|bottle|jug|bag|box|glass|can|bucket|pool|jar|bowl|carton|keg|race|run|walk|drive|trip|film|movie|man|woman|person|board|rope|pipe|stick|string|cable|steak|parcel|package|piece|bar
Qty <- (Number|Func|Group) Unit : measure
Qty <- (Number|Func) Cur : measure
Qty <- (-|minus|negative) Number Unit : measure(negative($0), $1)
Qty <- (a|an|one) (Unit|Cur) : measure(#1, $0)
Qty <- Number [of] (a|an) Unit : measure
Qty <- a Unit and a half : measure(#3/2, $0)
Qty <- Qty [and] Qty : compound
Qty <- (add|adding|sum|total up|sum up) Number and Number (Unit|Cur) : measure(op($0, $1, +), $2)
Qty <- Number and Number (Unit|Cur) (together|combined|in total|added together|altogether) : measure(op($0, $1, +), $2)
Top <- Chain [,|and] {TO} Measure : in_unit
Qty <- Qty Number : bare_compound
Qty <- Qty and Number : bare_compound !
Qty <- Number Unit below zero : below_zero
Qty <- Number below zero [in] Unit : below_zero
Qty <- Number Unit below Number Unit : below_zero
Qty <- Number below Number Unit : below_zero/021
Qty <- [a|an] Qty of Noun
Qty <- (a|an) Qty {HOLDS}
Qty <- [a|an] [temperature] (change|rise|increase|drop|fall|decrease|difference) of Qty : delta
Qty <- (warming|cooling) (by|of) Qty : delta
Qty <- Cur Number : measure/10
Qty <- Sign Number : measure/10
Qty <- Number Sign : measure
Qty <- Sign Number Cur : sign_cur
Qty <- Number (cents|cent) : money_cents
Qty <- Number ¢ : money_cents $USD
Qty <- Number (us|american) cents : money_cents $USD
Qty <- Number (euro|eur) cents : money_cents $EUR
Qty <- Qty [and] Number (cents|cent|pence) : and_cents
Atom <- Qty
Money <- Cur
Money <- Sign
Measure <- Unit
Measure <- Money

Top <- Val {TO} Measure : in_unit
Top <- Val {TO} Unit and Unit : in_units
Top <- Val {TO} Money [on|at|as of|at rate of|at rates of|using rate of|using rates of|by rate of|from] DateX : in_unit
Top <- Val (on|as of) DateX {TO} Money : in_unit/021
ISHOW = = how many|equal how many|equal how much|= how much|is how many|is how much in|equals how many|makes how many|corresponds to how many|is same as how many|is equal to how many|make how many|are how many|is equivalent to how many|gives how many|- how many|how many|is how much|comes to how many
THAT = is that|is it|are that|would that be|does that make|do i get|will that be|are they|do i get for it|would it be
Top <- Val {ISHOW} Measure [{THAT}] : in_unit
Top <- in Measure [,] Top4 : in_unit/10
Top4 <- Val
Top4 <- (what|how much) (is|are|was|were|do|does) Val [equal|make|come to|worth|be]
COMESTO = come to|comes to|be|make|makes|fetch|fetched|get me|bring|amount to|amounts to|equal|yield|buy|bought|get|cost|total|measure|weigh|stand at|translate to
Top <- Val {COMESTO} [worth] in Measure : in_unit
Top <- Unit (value of|in|per) Val : in_unit/10
Top <- Money value of Val : in_unit/10
Top <- (value|equivalent|worth|metric equivalent|imperial equivalent) of Val in Measure : in_unit
Top <- (if|when) (i|we|you) (exchange|change|convert|swap|trade) Val [,] how many Money (will|would|do|can|shall) (i|we|you) (get|receive|have|obtain) : in_unit
Top <- how many Money (will|would|do|can|shall|did) (i|we|you) (get|receive|have|obtain|buy) (for|with|from) Val : in_unit/10
Top <- how many Money (will|would|do|does|did|can|shall) Val (get|buy|bring|fetch|get me|yield|be) : in_unit/10
Top <- (swap|trade|exchange|change) Val for Money : in_unit
Top <- how (much|many) Money (is|are|was|were) Val [worth] : in_unit/10
Top <- how much in Measure (is|are|was|were) Val : in_unit/10
RATEON = on|as of|at rate of|at rates of|using rate of|using rates of|by rate of|with rate of|with rate from|rate of|at exchange rate on|at exchange rate of|going by rate on|using rate from|at rate on|with exchange rate of|based on rate of|at rates on|back on|at rate from|by rate on|using exchange rate of|with rate on|at conversion rate of|rate from|rate on|using rates on|applying rate of
RateDate <- {RATEON} DateX
RateDate <- (with|at|using) DateX (exchange rate|rate|rates)
Top <- Top RateDate : redate
Top <- RateDate [,] Top : redate/10
Top <- Val = how (many|much) Money : in_unit
MANY = how many | how much | number of | what number of | amount of | how much in | what amount of
CONTAIN = is | are | in | are in | are there in | is in | make | makes | make up | does | do | equal | equals | is there in | correspond to | corresponds to | can you get from | do you get from | do i get for | do you get for | do i get from | would i get for | will i get for | can i get for | can i buy with | fit in | fit into | go into | are contained in | does it take to make | can be made from | are equal to | are equivalent to | amount to | comprise | have
Top <- {MANY} Measure {CONTAIN} Val : in_unit/10
Top <- {MANY} Unit (does|do) Val (equal|make|have|contain|come to|correspond to|amount to|measure|weigh|comprise|take|last) : in_unit/10
Top <- {MANY} Money {CONTAIN} Val (on|at rate of|at rates of|as of) DateX : in_unit/102
Top <- {MANY} Money (does|do|is|are|would|will) Val (equal|make|come to|correspond to|amount to|cost|worth|be worth|be|buy|get me|give me|bring|fetch) : in_unit/10
Top <- {MANY} cents {CONTAIN} Val : how_many_cents
Top <- (convert|change|exchange|turn|translate|transform|express|swap|switch) Top2
Top <- Val [,|.|;] (in|how much in|how much is that in|how much is it in|what is that in) Money if (that|it|this|price) is in Money : in_unit(measure($0, $2), $1)
Top2 <- Val {TO} Measure : in_unit
Top2 <- Val {TO} Unit and Unit : in_units
Top2 <- Val {TO} Money (on|at|as of|at rate of|at rates of|using rate of|using rates of) DateX : in_unit
Top <- [convert|change] Val {TO} Measure [,|.|;] [and] (what is|how much is) Charge of (that|it|result) : pct_of($2, in_unit($0, $1))
Top2 <- Number Noun (to|into|in) Unit : no_unit
Top <- (what|how much) (is|are|was|were) Val worth in Money [on DateX] : in_unit
Top <- Val worth in Money : in_unit
Top <- Val worth of Money : in_unit !
Top <- [what (is|was)] [exchange|conversion] rate [from|of] Money (to|/|in|for|into|against) Money [on DateX] : in_unit(measure(#1, $0), $1, $2)
Top <- [what (is|was)] Money (to|/|-|in) Money [exchange|conversion] rate [(on|of|for) DateX] : in_unit(measure(#1, $0), $1, $2)
Top <- (what|how much) (is|was) [one|a] Money worth in Money [on DateX] : in_unit(measure(#1, $0), $1, $2)
BIG = bigger|larger|greater|more|higher|heavier|longer|taller|wider|hotter|warmer|faster|farther|further|deeper
SMALL = smaller|less|lower|lighter|shorter|narrower|colder|cooler|slower|nearer|fewer
Top <- (is|are) Val {BIG} than Val : yesno >
Top <- (is|are) Val {SMALL} than Val : yesno <
Top <- is it true that Sum (=|is|equals) Sum : yesno =
Top <- (is|are) Val (equal to|same as|as much as) Val : yesno =
Top <- (is|are) Val Number : yesno =
Top <- (does|do) Val (equal|make) Val : yesno =
Top <- is Integer [a] prime [number] : prime
Top <- is Integer divisible by Integer : yesno(op($0, $1, %), #0, =)
Top <- (which [one|number|value]|what) is {BIG} [,|:] Val or Val : which max
Top <- (which [one|number|value]|what) is {SMALL} [,|:] Val or Val : which min
Top <- Val or Val [,] which is {BIG} : which max
Top <- how many Qty (glasses|cups|bottles|servings|portions|pieces|bags|boxes|cans|jugs) (make|make up|are|are in|are there in|hold|fit in|fit into|go into) Qty : op/10 /
Top <- how many Qty (glasses|cups|bottles|servings|portions|pieces|bags|boxes|cans|jugs) (can i fill|can be filled|can you fill|fit|can i get|can i pour|can you pour|can you get|are there|can be made) (with|from|in|into|out of) Qty : op/10 /

MEASURED = is|are|am|was|were|weigh|weighs|weighed|measures|measured|takes|took|lasts|lasted|ran|walked|drove|covers|covered|costs|cost|holds|contains|runs|have|has|had|paid|earned|rose by|rises by
Told <- i measured Qty
Told <- (i|he|she|it|we|they) ({MEASURED}) [about] Qty [tall|long|high|deep|wide|heavy|away|old]
Told <- [a|an|my|his|her|our|this|that] Noun [Noun] ({MEASURED}) Qty [tall|long|high|deep|wide|heavy|away] : last
Told <- (my|a) Noun (says|shows|reads|is set to|is at|showed) Qty : last
Told <- it (got|became|gets|is getting) Qty (warmer|colder|hotter|cooler) : delta
Told <- temperature (rose|fell|dropped|went up|went down|increased|decreased|changed|climbed) [by] Qty : delta
Told <- it (cooled down|warmed up|cooled|warmed|got warmer|got colder|got hotter|cooled off) by Qty : delta
Top <- Told [.|,|;|and|:|-] how many Measure is (that|this|it) : in_unit
Top <- Told [.|,|;|and|:|-] (what is|how much is|what would|how much would) (that|this|it) [be] in Unit : in_unit
Top <- Told [.|,|;|and|:|-] how (tall|heavy|long|far|high|deep|wide|big|fast|hot|cold) (am i|is that|is it|is he|is she|was that|was it) in Unit : in_unit
Top <- Told [.|,|;|and|:|-] (how much do i weigh|what do i weigh|how much does (it|he|she) weigh) in Unit : in_unit
Top <- Told [.|,|;|:] [and] [that] in Unit : in_unit
Top <- Told [.|,|;|and|:|-] (what is|how much is|how tall am i|how tall is that|how long is that|) [that|it|this] in Unit and Unit : in_units
Top <- (i|we) (have|have got|got) Val [.|,|;|and] [and] how many Money (will|would|do|can|is) (i|we|that|it) [get|have] [for it|for that|for them] : in_unit
Top <- Told [.|,|;|and|:|-] (what is|how much is) (that|this|it) [worth] in Money : in_unit
Top <- how (tall|high|long|heavy|deep|wide|far|fast|hot|cold|big|much) is Qty in Unit : in_unit
Top <- how (tall|high|long|heavy|deep|wide|far|big) is Qty in Unit and Unit : in_units
Top <- Val [,|.] (answer in|give answer in|give me answer in|answer should be in|result in) Unit : in_unit
GOES = does|goes|travels|drives|runs|moves|rides|is going|is travelling|is driving|flies|walks|is moving
Top <- (a|my|our|this) Noun {GOES} [at] Qty [.|,|;] how far (does|will|would|can) (it|he|she) (go|travel|get|drive|ride|move) in Qty : distance
Top <- how far (do|does|will|would|can) (i|you|we|it) (go|travel|get|drive|ride) in Qty at Qty : distance/10
Top <- how far (do|does|will|would|can) a Noun (go|travel|get|drive|move) in Qty at Qty : distance/021
Top <- how long (does|do|will|would) Qty take at Qty : duration
Travel <- [if|when] [i|you|we|he|she|they] [drive|travel|cycle|ride|walk|run|fly|driving|travelling|cycling] [for] Qty at [a speed of] Qty : distance/10
Travel <- [if|when] [i|you|we|he|she|they] [drive|travel|cycle|ride|walk|run|fly|driving|travelling|cycling] [at] Qty for Qty : distance
FAR = how far (is that|is it|do i get|do you get|do i go|do we get|would that be|will i get|does that get me|have i gone)|what distance (is that|do i cover)
Top <- Travel [,|.|;] {FAR} [in Unit] : travelled
RAN = ran|run|drove|drive|walked|walk|cycled|cycle|rode|ride|covered|cover|travelled|travel|swam|swim|flew|fly|did
Pace <- (i|he|she|it|we|they|you) {RAN} Qty in Qty : pace
Pace <- (a|my|our|this) Noun {RAN} Qty in Qty : pace/12
Pace <- Qty in Qty : pace
Top <- [if] Pace [.|,|;] (what is|what was) [my|his|her|our|their|its|your] [average] (speed|pace) in Unit : speed_in
Top <- [if] Pace [.|,|;] how fast (is that|was that|was i|did i go|am i|was it|is it) in Unit : speed_in
Top <- how long (does|do|will|would) it take to (go|travel|drive|cover|ride|walk|run) Qty at Qty : duration
Rate <- Unit (per|/) Unit : per
Rate <- Unit (per|/) Number Unit : per/021
Rate <- Money (per|a) Unit : per
Rate <- mpg : per_named mile gallon
RateVal <- Number Rate : rated
RateVal <- Sign Number per Unit : rated($1, per($0, $2))
Top <- [convert|change|turn] RateVal {TO} Rate : rate_in
Top <- how many Rate (is|are|in) RateVal : rate_in/10
"""

STORIES = """
WHO = i|she|he|we|they|you|tom|mary|john|anna|sara|ann
HAD = have|has|had|start with|starts with|started with|own|owns|bought|buy|buys|got|get|collected|picked|bake|baked|begin with|began with
GAVE = spend|spends|spent|eat|eats|ate|lose|loses|lost|give away|gives away|gave away|sell|sells|sold|use|uses|used|donate|donated|pay|pays|paid|drop|dropped|throw away|threw away|remove|removed|take away|took away
GOT = buy|buys|bought|get|gets|got|find|finds|found|receive|receives|received|gain|gains|gained|earn|earns|earned|pick|picked|add|added|win|wins|won
LEFT = are left|is left|remain|remains|do i have left|do i have|does she have left|does he have left|does she have|does he have|do we have left|do we have|do they have left|are there now|do i have now|does he have now|does she have now|are there left|will be left|would be left|left|do you have left|do you have
Stuff <- Number [of] Noun : stuff
Stuff <- Number [more] : stuff
Stuff <- Qty : stuff
Stuff <- Number more Noun : stuff
CUT = discounted by|reduced by|marked down by|on sale for|cut by|down by|lowered by
Priced <- (a|my|this|that) Noun [Noun] (costs|cost|is priced at|was|is|sells for|is listed at) [originally] Sum : last
Priced <- Noun [Noun] (costs|cost|is priced at|sells for) Sum : last
Priced <- a Qty Noun : priced
Priced <- a Qty {HOLDS}
Off <- [,|.|and|but] [it] (is|was|gets) {CUT} Charge
Off <- [,|.|and|but] [it] (is|was) [now] Charge (off|cheaper)
Off <- with [a|an] Charge (discount|reduction|rebate)
Up <- [,|.|and|but] [it] (is|was|gets) (raised by|increased by|marked up by|put up by) Charge
Top <- Priced Up [.|,|;] {PRICE} : pct_change +
Priced <- Priced [,|.|and|;] [there is|with|then|and then|minus] [a|an] Charge {PAID} : pct_change -
Priced <- Priced [,|.|and|;] [there is|with|then|and then|plus|and] Levy : pct_change +
Priced <- {WHO} (buy|bought|order|ordered|purchase|purchased|sell|sold) Item
Top <- Priced [.|,|;] {PRICE}
Top <- Priced Off [.|,|;] {PRICE} : pct_change -
BILL = bill|meal|check|dinner|lunch|tab
TIPPED = leave|give|tip|add
Billed <- [my|our|a|if|if my|if our] ({BILL}|restaurant bill|dinner bill|lunch bill|{BILL} total) (was|is|came to|comes to|totals|totaled|cost) Sum
Bill <- Billed [and|.|,|;] [and] (i|we) (want|would like|plan|wish|need|decide) to {TIPPED}
Bill <- Billed [and|.|,|;] [and] (i|we) {TIPPED}
Top <- Billed [.|,|;] (how much|what) (is|should|would|will) [a|an] Charge [tip] [be] : pct_of/10
EACH = how much (each|per person|does each pay|does each person pay|does everyone pay|do we each pay)|what does (each|everyone|each person) (pay|owe)
Top <- (Billed|Priced) [.|,|;|and] [and] [we] [split|divided|shared] (Integer ways|between Integer {PEOPLE}|among Integer {PEOPLE}|by Integer {PEOPLE}) [.|,|;] {EACH} : op /
Top <- (Billed|Priced) [.|,|;|and] [and] [we] [split|divided|shared] (Integer ways|between Integer {PEOPLE}|among Integer {PEOPLE}|by Integer {PEOPLE}) (with|plus) Levy [.|,|;] {EACH} : op(pct_change($0, $2, +), $1, /)
Priced <- Billed [,|.|and|;] [and|plus|with|then] Levy : pct_change +
Priced <- (Priced|Billed) [,|.|and|;] [there is|with|then|plus|and] Levy [,|and] [and|plus|with|then] Levy : pct_change($0, charges($1, $2), +)
BASE = on (pre tax|pretax|before tax|original|net) (amount|price|total|bill|subtotal|cost)|both on (bill|original price|pre tax amount)
Top <- Billed [,|.|and|;] [plus|with|and] Levy [,|and|plus] [and|plus] Levy {BASE} [.|,|;] {PRICE} : pct_change($0, charges($1, $2), +)
Top <- Bill [a|an] Charge [tip] [.|,|;] (how much is tip|what is tip|how much should i tip|how much tip is that|how much do i tip) : pct_of/10
Top <- Bill [a|an] Levy [.|,|;] (how much is tip|what is tip|how much should i tip|how much is that) : pct_of/10
Top <- Bill [a|an] Charge [tip] [.|,|;] {PRICE} : pct_change +
Top <- Number Noun cost Sum [.|,|;|-] [and] (what|how much) (does|would|will|do) (one|each) [Noun] cost : proportion
Top <- (if) Number Noun cost Sum [.|,|;] (what|how much) (does|would|will|do) (one|each) [Noun] cost : proportion
Top <- [if] Number Noun cost Sum [.|,|;|-] [and] (what|how much) (do|would|will) Number [of them] [Noun] cost : proportion
Top <- (a|one|each|every) Noun (holds|has|contains|fits|can hold) Number Noun [.|,|;] how many Noun (are in|are there in|in|fit in|do) Number Noun [hold|contain|have] : packed
Changed <- [a|an|my|our|this] Noun [Noun] (was|cost|used to cost|used to be) Sum [and|but|,] [but] [it] (now costs|is now|now is|costs now) Sum : then_now
FALLEN = (what|how many) (percent|percentage|per cent) (discount|reduction|decrease|drop|off|cheaper) (is that|was that|is it|did i get)|(what|how much) is (discount|reduction|decrease|drop) in percent
RISEN = (what|how many) (percent|percentage|per cent) (increase|rise|more|dearer|growth) (is that|was that|is it)|(what|how much) is (increase|rise) in percent
Top <- Changed [.|,|;] {FALLEN} : changed -
Top <- Changed [.|,|;] {RISEN} : changed +
Top <- {WHO} (paid|pay|spent) Sum for Number Noun [Noun] [.|,|;] (what is price|how much is that|what is cost|how much is it|how much did it cost|what does it cost|what did i pay) (per|for each|for one|a|each) Noun : price_per
Item <- Number Noun [Noun] at Neg : each_at
Item <- (a|an|one) Noun [Noun] (for|at) Neg : last
Val <- (total|total cost|total price|cost|price) (for|of) Item
PRICE = what is selling price|total|in total|what is total bill|how much do i pay in total|how much do we pay|what do we pay|how much in total|what is total|how much is total|what is total price|what is new price|what do i pay|how much do i pay|how much is it|how much is it now|what does it cost|what does it cost now|what is sale price|what is final price|how much does it cost|how much does it cost now|what is price now|what will i pay|what do you pay|what is discounted price
NEEDS = needs|gets|has|eats|wants|takes|costs|brings|holds|contains|receives|uses|pays|bought|ate|got|drinks|weighs
Top <- there are Number Noun [in a Noun] [.|,|;|and] [and] each [of them|one|Noun] {NEEDS} Number Noun [.|,|;] how many Noun (are needed|are there|do they need|are there in total|do we need|do they have|is that|are there altogether) [in total|altogether] : each_of
Top <- {WHO} (read|write|make|bake|save|walk|run|plant|learn|produce|eat) Number Noun (a|per|each|every) CalUnit [.|,|;] how many CalUnit (do|does|will|would) {WHO} (need|take) for [a|an] Number Noun [Noun] : days_for
Top <- {WHO} (read|write|make|bake|save|walk|run|plant|learn|produce|eat) Number Noun (a|per|each|every) CalUnit [.|,|;] how many CalUnit (does|will|would) it take [{WHO}] to (read|write|make|bake|save|walk|run|plant|learn|produce|eat) Number Noun : days_for
CALLS = needs|uses|takes|calls for|requires|contains
Top <- [if] [a|my|this] Noun for Number {PEOPLE} {CALLS} Number Unit of Noun [.|,|;] how much Noun [is needed|do i need|do i use|is that] for Number [{PEOPLE}] : scaled_up
Person <- (Name|Unknown|my Noun) : nothing
Kin <- (his|her|my|their) Noun : same
Aged <- (Person|{WHO}) is Number [years old] [and|,|.|;] [and] Kin is Number years older : ages +
Aged <- (Person|{WHO}) is Number [years old] [and|,|.|;] [and] Kin is Number years younger : ages -
Top <- Aged [.|,|;] how old is Kin : aged
Leg <- Qty on Weekday : first
Leg <- Qty
Legs <- Leg (and|,|, and|, then|then) Leg : op +
Legs <- Leg (,|, then|then) Legs : op +
Top <- {WHO} {RAN} Legs [.|,|;] how far (did|have) {WHO} {RAN} [in total|altogether|in all] : asked
Top <- {WHO} {RAN} Legs [.|,|;] how many Unit (did|have|is that) [{WHO} {RAN}] [in total|altogether|in all] : in_unit
Owned <- [if] {WHO} {HAD} Stuff
Owned <- there (are|were) Stuff
Owned <- Owned [,|.|;] [and|but|then|and then] [{WHO}] {GAVE} Stuff : owned -
Owned <- Owned [,|.|;] [and|but|then|and then] [{WHO}] {GOT} Stuff : owned +
Owned <- {WHO} {HAD} Number Noun of Number Noun [each] : stuff(op($0, $2, *), $3)
Owned <- {WHO} {HAD} Number Noun (with|containing|holding) Number Noun (each|in each|apiece) : stuff(op($0, $2, *), $3)
Owned <- there (are|were) Number Noun (of|with|containing|holding) Number Noun (each|in each|apiece) : stuff(op($0, $2, *), $3)
Top <- Owned [.|,|;] how (many|much) [{LEFT}] : owned_left
Top <- Owned [.|,|;] how (many|much) Noun [{LEFT}] [in total|altogether|in all|now] : owned_left
Top <- Owned [.|,|;] how (many|much) Measure {LEFT} : in_unit(owned_left($0), $1)
Top <- Owned [.|,|;] how (many|much) {LEFT} (in total|altogether|in all|now) : owned_left
"""

MONEY = """
TAX = vat|tax|gst|sales tax|value added tax|taxes
NET = (without|before|excluding|excl|exclusive of|net of|ex|less) {TAX}
GROSS = (with|including|after|incl|inclusive of) {TAX}|{TAX} included
AMOUNT = price|cost|amount|total|total price|fee|invoice|fare|rent|bill
TaxRate <- {TAX} [rate] [is|of|at|was] Pct
TaxRate <- [at|of] [a|an] Pct {TAX} [rate]
Net <- [a|my|this|if|if a] {AMOUNT} {NET} (is|was) Sum
Net <- [a|my|this] net {AMOUNT} (is|was|of) Sum
Net <- Sum {NET}
Gross <- [a|my|this|if|if a] {AMOUNT} {GROSS} (is|was) Sum
Gross <- [a|my|this] gross {AMOUNT} (is|was|of) Sum
Gross <- Sum {GROSS}
WHATIS = what is|what was|how much is|how much was|what would be|find|calculate|what
ASKNET = [{WHATIS}] [it|that|{AMOUNT}] {NET}|[{WHATIS}] net [{AMOUNT}]
ASKGROSS = [{WHATIS}] [it|that|{AMOUNT}] {GROSS}|[{WHATIS}] gross [{AMOUNT}]|{WHATIS} total [{AMOUNT}]
ASKTAX = how much (is|was) {TAX}|what is {TAX}|how much {TAX} (is|was) (that|it|included|in it|in that|in there)|how much of (that|it) is {TAX}|how much {TAX} (do|did) i pay
Top <- [a|my] {AMOUNT} (including|incl|with|inclusive of) TaxRate (is|was|comes to|came to) Sum [.|,|;|and] {ASKNET} : whole/10 +
Top <- [a|my] {AMOUNT} (including|incl|with|inclusive of) TaxRate (is|was|comes to|came to) Sum [.|,|;|and] {ASKTAX} : asked(op($1, whole($1, $0, +), -))
Top <- how much (vat|tax|interest|commission|tip|gratuity|duty|discount) is Charge (of|on) Neg : pct_of
Top <- Net [.|,|;|and] [and|with|at] TaxRate [.|,|;|and] {ASKGROSS} : pct_change +
Top <- Net [.|,|;|and] [and|with|at] TaxRate [.|,|;|and] {ASKTAX} : pct_of/10
Top <- Gross [.|,|;|and] [and|with|at] TaxRate [.|,|;|and] {ASKNET} : whole +
Top <- Gross [.|,|;|and] [and|with|at] TaxRate [.|,|;|and] {ASKTAX} : asked(op($0, whole($0, $1, +), -))
Top <- Sum (including|incl|inclusive of) TaxRate [.|,|;|and] {ASKNET} : whole +
Top <- Sum (including|incl|inclusive of) TaxRate [.|,|;|and] {ASKTAX} : asked(op($0, whole($0, $1, +), -))
ORIGINAL = what was (original price|price before|full price|old price|price before discount|original cost|it before|regular price|price originally)|what did it cost (before|originally|before discount)|how much (was it|did it cost) (before|originally|before discount)
Marked <- after [a|an] Charge {PAID} [,] Priced : whole/10 -
Marked <- after [a|an] Charge {PAID} [,] (it|price|{AMOUNT}) (costs|cost|is|was) Sum : whole/10 -
Marked <- after [a|an] Charge {PAID} [,] {WHO} (paid|pay) Sum : whole/10 -
Marked <- {WHO} (paid|pay) Sum after [a|an] Charge {PAID} : whole -
Marked <- Priced after [a|an] Charge {PAID} : whole -
Top <- Marked [.|,|;] {ORIGINAL}
PERYEAR = a year|per year|annually|per annum|yearly|every year|each year|annual interest
INTEREST = interest (do|would|will|did) (i|you|we) (get|earn|receive|pay|owe)|interest (is|will be) (earned|due|paid|owed)|interest
Lent <- on Sum at [a rate of|rate of|an interest rate of] Pct [{PERYEAR}] (for|over|in|after) Number CalUnit : simple_interest
Lent <- on Sum (for|over|in|after) Number CalUnit at [a rate of|rate of|an interest rate of] Pct [{PERYEAR}] : simple_interest/0312
Top <- [how much|what is] simple {INTEREST} Lent : last
Top <- (how much|what) {INTEREST} on Sum at Pct simple interest [{PERYEAR}] (for|over|in|after) Number CalUnit : simple_interest
COMPOUNDED = compounded (annually|yearly|once a year|every year)|compound interest [{PERYEAR}]|with compound interest [{PERYEAR}]
Top <- (what|how much) (will|would) Sum (be|be worth|grow to|become) (after|in) Number CalUnit at [{PERYEAR}] Pct [interest] [{PERYEAR}] {COMPOUNDED} : compounded
Top <- (what|how much) (will|would) Sum at Pct {COMPOUNDED} (be|be worth|grow to|become) (after|in) Number CalUnit : compounded/0231
Every <- (an|a|per|each|every) (Unit|CalUnit)
Rated <- [if|suppose] {WHO} (earn|earns|make|makes|get|gets|am paid|is paid|are paid|charge|charges|save|saves|spend|spends|pay|pays) Sum Every : earning
Rated <- [if] [my|her|his|our|a] (pay|wage|rate|salary|rent|income) is Sum Every : earning
Rated <- [if] [my|a|our] Noun [Noun] (is|costs|cost) Sum Every : rated_at
Working <- (work|works|working) Number Unit (a|per|each|every) CalUnit : earning
Working <- (work|works|worked) Number Unit : earning
ASKPAY = (how much|what) (do|does|will|would|did) {WHO} (make|earn|get|get paid|charge|have|save|spend|pay|have saved)|how much (is that|is it|does that make|does it cost|is this|will it be)
Top <- Rated [.|,|and|;] [and] [{WHO}] [am|is] Working [.|,|;] {ASKPAY} [(in|per|a|each|every) [a|one] CalUnit] : pay
Top <- Rated [.|,|and|;] [and] [{WHO}] [am|is] Working [.|,|;] {ASKPAY} in Number CalUnit : pay
Top <- if {WHO} Working at Sum Every [.|,|;] {ASKPAY} : pay(earning($1, $2), $0)
Top <- Rated [.|,|;|-] [and] {ASKPAY} (for|in|after|over) Number (Unit|CalUnit) : at_period
Top <- Rated [.|,|;|-] [and] {ASKPAY} (a|per|in a|each|every|for a|in one) (Unit|CalUnit) : at_period
Top <- Rated [.|,|;|-] [and] (how much|what) (do|does|would|will) Number Unit [of Noun] cost : at_period
"""

FRAMES = """
S <- Top
S <- Open S
S <- S Close
S <- Top [,|and] [and] by how much : by_how_much
S <- RateDate [,] S : redate/10
Top <- Val : asked
Open <- (what|how much) (is|are|was|were|would be|does|do|will be|did|would|will|should|can|could)
Open <- (how many) (is|are)
Open <- (what is|give me|tell me|find|calculate|compute) (result|value|answer|outcome|solution) [of|to|for]
Open <- find me
Open <- (calculate|compute|evaluate|work out|figure out|find|find out|determine|solve|answer|show|return|get|state)
Open <- (tell|show|give) (me|us) [what|how much]
Open <- (can|could|would|will) you [help me]
Open <- (can|could) (i|we) (get|have|know)
Open <- (i|we) (need|want|would like|wonder|am wondering|have to know|wish) [to (know|find|find out|calculate|compute|get|see)]
Open <- (do|would) you know
Open <- (if|suppose|when|say) (i|you|we) [were to]
Open <- (quick question|one more thing|by way|i am curious|one question|another question|next question|last question|look up|name|state|give|let me know|remind me|i was wondering|any idea|say)
Top <- what (remains|is left|do i have left|have i left|would be left|will be left) (when|if|after) [you|i|we] Val : remains
Top <- (how much|how many) (is left|remains|are left|do i have left) (when|if|after) [you|i|we] Val : remains
Open <- what (do|would|will) (you|i|we) (get|have|obtain) (when|if|by|after) [you|i|we]
Open <- what (comes out|happens|is outcome|is result) (when|if) [you|i|we]
Open <- (how much|what) do
Open <- (how large|how big|how much money) is [a]
Open <- what (has been|number is|amount is)
Open <- by what amount is !
Open <- (question|hello|hi|q|so|now|and|also|well|then) [:|,]
Open <- (help me|help)
Open <- (if|when|suppose)
Open <- take
Open <- i am trying to
Open <- what number (is|do you get if you)
Top <- what Val (is|equals|makes|comes to|gives|would be)
Open <- (result|value|answer) of
Open <- by how much (is|was|did|does)
Close <- (thanks|thank you|cheers|thx|thanks a lot|thank you very much)
Close <- (for me|for us)
Close <- (in total|altogether|in all|all together|together|all in all|overall)
Close <- [,|.] (how much will i get|how much do i get|how much would i get|what will i get|how much is that|how much does that make|what do you get|what do you have|what is result|what is it now|what is outcome|what comes out|what is answer|what do i get|how much each|is how much each|how many now|how much is it|what is total|how many is that|what does that make|and tell me result|what is that|what is left|how much is left|what remains)
Close <- (makes what|make what|gives what|is what|makes how many|make how many|is how much|gives how much|equals what|equal what|are what|is how many|comes to what)
Close <- (equal|equal to|make|come to|equals|amount to|give|worth|be|=|is|are|get|was|were)
Close <- (right now|now|at moment|today) !
Close <- (do you think|do you know|can you tell me|would that be|will that be|is that|would it be)
Close <- [.|,] give [me] [a] (signed difference|number|single number|whole number|exact number|result|answer|difference)
Close <- [.|,] [a|only] (number|answer|result) [only]
Close <- as (a decimal|a number|a decimal number|decimal)
Close <- [.|,|?] (show your work|answer with a number|answer only|just number|number only|be exact|give exact value|without rounding)
Close <- .
"""

BLOCKS = (NUMBERS, QUANTITIES, STORIES, MONEY, DAYS, DATES, TABLES, LOOKUPS, FRAMES)
