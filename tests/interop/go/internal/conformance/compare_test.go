package conformance

import (
	"testing"

	"interop/internal/answer"
	"interop/internal/call"
)

func answered(code, message string) []Answered {
	record := answer.Record{Code: code, Message: message, Responses: []any{map[string]any{"ids": []any{"a", "b"}}}}
	return []Answered{{Case: "one", Caller: Local, Method: "Entry/GetEntry", Record: record}}
}

func TestEveryDifferenceIsTold(t *testing.T) {
	recorded := answered("OK", "")
	for name, came := range map[string][]Answered{
		"code":    answered("NotFound", ""),
		"message": answered("OK", "other"),
		"case":    {{Case: "another", Record: recorded[0].Record}},
	} {
		differences, _, _, err := Compare(recorded, came, nil)
		if err != nil || len(differences) != 1 || differences[0].Path != name {
			t.Errorf("%s: %+v, %v", name, differences, err)
		}
	}
	came := answered("OK", "")
	came[0].Responses = []any{map[string]any{"ids": []any{"a", "c"}}}
	differences, _, _, err := Compare(recorded, came, nil)
	if err != nil || len(differences) != 1 || differences[0].Path != "responses[0].ids[1]" {
		t.Errorf("%+v, %v", differences, err)
	}
	if differences, _, _, err := Compare(recorded, recorded, nil); err != nil || len(differences) != 0 {
		t.Errorf("the same differs: %+v, %v", differences, err)
	}
}

func TestAnAcceptedDifferenceIsForItsPlaceAlone(t *testing.T) {
	recorded, came := answered("OK", ""), answered("OK", "other")
	accepted := []Accepted{{Case: "o*", Path: "message", Ours: `"other"`, Why: "a reason"}}
	if differences, _, stale, err := Compare(recorded, came, accepted); err != nil || len(differences)+len(stale) != 0 {
		t.Errorf("%+v, %+v, %v", differences, stale, err)
	}
	accepted[0].Ours = `"something else"`
	if differences, _, stale, err := Compare(recorded, came, accepted); err != nil || len(differences) != 1 || len(stale) != 1 {
		t.Errorf("%+v, %+v, %v", differences, stale, err)
	}
}

func TestAMethodThatIsNotThereIsListedApart(t *testing.T) {
	differences, missing, _, err := Compare(answered("OK", ""), answered("Unimplemented", "x"), nil)
	if err != nil || len(differences) != 0 || len(missing) != 1 {
		t.Errorf("%+v, %+v, %v", differences, missing, err)
	}
}

func TestEveryMethodHasCasesOfItsOwn(t *testing.T) {
	names, methods := map[string]bool{}, map[string]int{}
	for _, c := range Cases() {
		if names[c.Name] {
			t.Errorf("two cases are named %q", c.Name)
		}
		names[c.Name] = true
		if !c.CodeOnly {
			methods[call.Find(c.Method).Name]++
		}
	}
	for _, method := range call.Methods() {
		if methods[method.Name] == 0 {
			t.Errorf("%s has no case but the matrix", method.Name)
		}
	}
	if len(methods) != 65 {
		t.Errorf("%d methods", len(methods))
	}
}
